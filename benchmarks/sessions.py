"""Sessions: bytes, append, resume and search, and ten thousand of them on one machine.

Weights, and where it says so memories, are random: neither time nor bytes depend on their values.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import (
    Cell,
    Context,
    Figure,
    Outcome,
    Table,
    check,
    latency_row,
    measure,
    percentile,
)
from benchmarks.serving import folder_bytes, memory_of
from memstore.codec import ProductCodec
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import MelodiConfig
from memstore.sessions import SessionModel, SessionStore
from memstore.sessions.archive import Archive, Make
from memstore.sessions.cache import Cache
from memstore.sessions.content import EMPTY, Content, Window
from memstore.sessions.opened import Opened
from memstore.sessions.versions import Versions
from memstore.storage import PosixStore
from memstore.types import Codec

_TOKENS = 1_000_000
_SESSIONS = {False: 10_000, True: 50}
_SHORT_APPEND = 16
_MIB = 2.0**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model to measure.

    Attributes:
        name: in tables.
        config: of the model.
        dtype: of its weights and memories.
        compression: of the codec over the dtype's bytes.
        calls: of what runs the model, in each round.
    """

    name: str
    config: MelodiConfig
    dtype: torch.dtype
    compression: int
    calls: int


_SMALL = Shape(
    name="small",
    config=MelodiConfig(
        vocab_size=4096,
        dim=256,
        num_layers=6,
        num_heads=4,
        ffn_dim=1024,
        window=128,
        num_short_tokens=32,
        num_summary_tokens=32,
        num_long_tokens=16,
        queue_windows=64,
    ),
    dtype=torch.float32,
    compression=16,
    calls=20,
)
_PAPER = Shape(
    name="paper",
    config=MelodiConfig(vocab_size=32_128),
    dtype=torch.bfloat16,
    compression=8,
    calls=4,
)


class Made:
    """A model of random weights, its codec, and a folder of sessions.

    Args:
        shape: of the model.
        folder: for its tokenizer and its sessions.
        seed: of all that is random.
    """

    def __init__(self, shape: Shape, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        folder.mkdir()
        self.shape, self.folder = shape, folder
        self._rng = np.random.default_rng(seed)
        self.words = [f"w{number}" for number in range(shape.config.vocab_size)]
        _save_tokenizer(folder / "tokenizer.json", self.words)
        melodi = Melodi(shape.config).to(shape.dtype).eval()
        self.model = SessionModel(melodi, folder / "tokenizer.json")
        dim = shape.config.dim
        num_subspaces = dim * shape.dtype.itemsize // shape.compression
        codebook = self._rng.standard_normal((num_subspaces, 256, dim // num_subspaces))
        self.codec = ProductCodec(codebook.astype(np.float32))

    def text(self, num_tokens: int) -> str:
        """Return a text of so many tokens."""
        return "".join(f"{word} " for word in self._rng.choice(self.words, num_tokens))

    def open(self, name: str, codec: Codec | None, ram_bytes: int = 1 << 30) -> SessionStore:
        """Open the sessions of a name, with nothing at hand."""
        objects = PosixStore(self.folder / name)
        return SessionStore(objects, self.model, codec=codec, ram_bytes=ram_bytes)

    def archive(self, name: str, codec: Codec | None) -> Archive:
        """Open the same without the model."""
        config, rows = self.shape.config, self.model.row_format(codec)
        make = Make(
            model_id=self.model.id,
            codec_id=rows.codec_id,
            window=config.window,
            queue_windows=config.queue_windows,
            num_long_tokens=config.num_long_tokens,
            row_bytes=rows.row_bytes,
        )
        return Archive(Versions(PosixStore(self.folder / name)), make, Cache(0), time.time)

    def content(self, num_tokens: int, codec: Codec | None) -> Content:
        """Return a random memory of a text of so many tokens."""
        config = self.shape.config
        windows_read = (num_tokens - 1) // config.window
        short = self._floats(config.num_layers * config.num_short_tokens)
        num_tail = num_tokens - windows_read * config.window
        return Content(
            windows_read,
            short.reshape(-1),
            tuple(self.window(codec) for _ in range(min(windows_read, config.queue_windows))),
            np.zeros(num_tail, np.int32),
            self.text(num_tail),
        )

    def window(self, codec: Codec | None) -> Window:
        """Return a random window."""
        config = self.shape.config
        rows = self._floats(config.num_long_tokens)
        if codec is not None:
            shape = config.num_long_tokens, 2 * codec.record_words
            rows = self._rng.integers(0, 256, shape, np.uint8)
        return Window(self.text(config.window), rows)

    def _floats(self, num_vectors: int) -> np.ndarray:
        """Return finite vectors of the model's dtype as (num_vectors, bytes)."""
        vectors = self._rng.standard_normal((num_vectors, self.shape.config.dim), np.float32)
        return torch.from_numpy(vectors).to(self.shape.dtype).view(torch.uint8).numpy()


def run(context: Context) -> Outcome:
    """Measure both shapes, with and without a codec, then many small sessions."""
    shapes = (_SMALL,) if context.quick else (_SMALL, _PAPER)
    made = [Made(shape, context.work / shape.name, context.seed) for shape in shapes]
    small = made[0]
    rounds, calls = (2, 3) if context.quick else (5, 40)
    gates = check(
        {
            "memory read from disk is memory in RAM, bit by bit": partial(_comes_back, small, None),
            "with a codec, it is what the codec decodes": partial(_comes_back, small, small.codec),
        }
    )
    sizes: list[tuple[Cell, ...]] = []
    times: list[tuple[Cell, ...]] = []
    for each in made:
        for name, codec in _variants(each).items():
            sizes.append((name, *_size(each, codec)))
            times += _times(each, name, codec, rounds, calls)
    num_sessions = _SESSIONS[context.quick]
    return Outcome(
        gates=gates,
        settings={
            "tokens": _TOKENS,
            "sessions": num_sessions,
            "threads": torch.get_num_threads(),
            **{shape.name: _describe(shape) for shape in shapes},
        },
        tables=[
            Table(
                title=f"A session of {_TOKENS:,} tokens",
                columns=("model", "short-term", "queue", "text", "as one object", "after appends"),
                rows=sizes,
            ),
            Table(title="One session at a time", columns=("call", "p50", "p99"), rows=times),
            _many(small, num_sessions),
        ],
        notes=[
            "Weights are random, and so are the memories but those that the model itself is timed "
            "on.",
            "As one object: a fork. After appends: one window at a time, long after the queue is "
            "full; pieces may hold windows that have left it.",
            "Resume is from a store that has nothing at hand to the state as the model reads it; "
            "cold: the files were dropped from the page cache first.",
            f"An append of {_SHORT_APPEND} tokens runs the model only when it completes a window; "
            "those that do are the p99. Storage alone is the commit of one more window without the "
            "model.",
        ],
    )


def _variants(made: Made) -> dict[str, Codec | None]:
    dtype = str(made.shape.dtype).removeprefix("torch.")
    name = f"{made.shape.name}, {dtype}"
    return {name: None, f"{name}, queue {made.shape.compression}x": made.codec}


def _describe(shape: Shape) -> str:
    config = shape.config
    return (
        f"D {config.dim}; N {config.num_layers}; W {config.window}; S {config.num_short_tokens}; "
        f"L {config.num_long_tokens}; Q {config.queue_windows}"
    )


def _comes_back(made: Made, codec: Codec | None) -> bool:
    store = made.open(f"gate {codec is not None}", codec)
    name = store.create().session_id
    store.append(name, made.text(3 * made.shape.config.window + 5))
    live = store.state(name).to_tensors()
    fresh = made.open(f"gate {codec is not None}", codec)
    read = fresh.state(name).to_tensors()
    if codec is not None:
        rows = fresh.opened(name).content.rows()
        decoded = torch.from_numpy(codec.decode(rows.view(np.uint16))).to(read["queue"].dtype)
        if not torch.equal(read["queue"][0, -len(rows) :], decoded):
            return False
    return all(torch.equal(live[name], read[name]) for name in live)


def _size(made: Made, codec: Codec | None) -> tuple[Cell, ...]:
    """Return the bytes of a long session: of its parts, as one object, and after appends."""
    archive = made.archive(f"size {codec is not None}", codec)
    content = made.content(_TOKENS, codec)
    opened = archive.begin("fork", content, None, "")
    empty = archive.begin("grown", EMPTY, None, "")
    num_windows = 2 * made.shape.config.queue_windows + 37
    *_, grown = _grow(archive, empty, made, codec, num_windows)
    text = sum(len(window.text) for window in content.windows)
    sizes = content.short.nbytes, content.rows().nbytes, text
    stored = opened.info().num_bytes, grown.info().num_bytes
    return tuple(Figure(size / _MIB, 0, 0, "MiB", 1) for size in (*sizes, *stored))


def _grow(
    archive: Archive, opened: Opened, made: Made, codec: Codec | None, num_windows: int
) -> Iterator[Opened]:
    """Append random windows one at a time, without a model."""
    windows = [made.window(codec) for _ in range(4)]
    config = made.shape.config
    short = made.content(config.window + 1, codec).short
    for number in range(num_windows):
        content = opened.content
        kept = (*content.windows, windows[number % len(windows)])[-config.queue_windows :]
        opened = archive.commit(
            opened,
            replace(
                content,
                num_windows_read=content.num_windows_read + 1,
                short=short,
                windows=kept,
                tail=np.zeros(1, np.int32),
            ),
        )
        yield opened


def _times(
    made: Made, name: str, codec: Codec | None, rounds: int, calls: int
) -> list[tuple[Cell, ...]]:
    """Time the verbs on a session of a million tokens."""
    folder = f"times {codec is not None}"
    archive = made.archive(folder, codec)
    content = made.content(_TOKENS, codec)
    for session_id in ("read", "short", "long", "storage"):
        opened = archive.begin(session_id, content, None, "")
    growing = _grow(archive, opened, made, codec, (rounds * calls + 1) * 2)
    store = made.open(folder, codec)
    short, window = made.text(_SHORT_APPEND), made.text(made.shape.config.window)
    files = sorted((made.folder / folder / "read").iterdir())

    def resume(_: int, session_id: str = "read") -> None:
        made.open(folder, codec).state(session_id)

    seconds = measure(
        {
            f"append of {_SHORT_APPEND} tokens": lambda _: store.append("short", short),
            "append of a window, storage alone": lambda _: next(growing),
            "figures of a session": lambda _: store.info("read"),
            "resume": resume,
            "resume, after appends": partial(resume, session_id="storage"),
        },
        rounds=rounds,
        calls=calls,
    )
    read = measure(
        {
            "append of a window, with the model": lambda _: store.append("long", window),
            "search": lambda _: store.search("read", short),
        },
        rounds=rounds,
        calls=made.shape.calls,
    )
    cold = [[_cold(files, resume) for _ in range(calls)] for _ in range(rounds)]
    found = {**seconds, **read, "resume, cold": np.array(cold)}
    return [latency_row(f"{call}: {name}", taken) for call, taken in found.items()]


def _cold(files: Sequence[Path], call: Callable[[int], object]) -> float:
    """Drop files from the page cache, then time a call."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    began = time.perf_counter()
    call(0)
    return time.perf_counter() - began


def _many(made: Made, num_sessions: int) -> Table:
    """Fill a folder with sessions whose queue is full, and use each of them once."""
    codec, ram_bytes = made.codec, 64 << 20
    archive, content = made.archive("many", codec), made.content(_TOKENS, codec)
    for number in range(num_sessions):
        archive.begin(f"s{number:05}", content, None, "")
    folder = made.folder / "many"
    store = made.open("many", codec, ram_bytes)
    text = made.text(_SHORT_APPEND)
    idle = memory_of(os.getpid())["anonymous"]
    began = time.perf_counter()
    listed = store.list()
    list_s = time.perf_counter() - began
    seconds = measure(
        {"append": lambda turn: store.append(listed[turn % num_sessions].session_id, text)},
        rounds=1,
        calls=num_sessions,
        warmups=0,
    )
    used = memory_of(os.getpid())["anonymous"]
    on_disk = folder_bytes(folder)
    cells: dict[str, Cell] = {
        "bytes on disk": Figure(on_disk / _MIB, 0, 0, "MiB", 1),
        "of a session": Figure(on_disk / num_sessions / 1024, 0, 0, "KiB", 1),
        "RAM of the process before": Figure(idle / _MIB, 0, 0, "MiB", 1),
        f"RAM after an append to each, {ram_bytes >> 20} MiB allowed": Figure(
            used / _MIB, 0, 0, "MiB", 1
        ),
        "all of them listed": Figure(list_s, 0, 0, "s", 1),
        "append to one that is not at hand, p50": percentile(seconds["append"], 50),
        "append to one that is not at hand, p99": percentile(seconds["append"], 99),
    }
    return Table(
        title=f"{num_sessions:,} sessions of the small model, queue {made.shape.compression}x, "
        "each full",
        columns=("what", "figure"),
        rows=list(cells.items()),
    )


def _save_tokenizer(file: Path, words: Sequence[str]) -> None:
    """Write a tokenizer that knows these words and nothing else."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=words[0]))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(file))
