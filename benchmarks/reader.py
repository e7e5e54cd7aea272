"""A LUMEN reader on a store: where the time of an answer goes, and what the wire costs.

The model has T5 Base's shapes and random weights: its answers mean nothing, its work is the same.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import T5Config

from benchmarks.collection import build
from benchmarks.harness import Context, Figure, Outcome, Table, check, rate, spread
from benchmarks.serving import serve
from memstore import Client, Store, open_store
from memstore.encoders import EncoderOptions
from memstore.encoders.batching import pad
from memstore.encoders.identity import plan_encoder
from memstore.models.lumen import Lumen
from memstore.readers import LumenReader
from memstore.readers.answers import Timings
from memstore.readers.questions import QuestionTokenizer
from memstore.text import load_tokenizer
from memstore.types import FetchResult, QueryResult

_TOP_K = 8
_ANSWER_TOKENS = 8
_EMBEDDED = "store in the process"
_CODES = "codes on the wire"
_VECTORS = "bfloat16 on the wire"
_TEXT = "text on the wire, encoded anew (FiD)"
_STAGES = ("retrieve", "fetch", "decode", "live", "decoder")
Seconds = dict[str, float]
"""Stage → seconds of one call."""
Way = Callable[[int], tuple[Seconds, int]]
"""From the number of a turn to its stages and the tokens of memory that were read."""


class TimedSource:
    """Search, then fetch, so that each has its time; questions are numbers of vectors.

    Args:
        store: or a client.
        vectors: (N, E), of the questions.
        decoded: in which dtype a server decodes; None: codes travel.
    """

    def __init__(
        self, store: Store | Client, vectors: np.ndarray, decoded: str | None = None
    ) -> None:
        self.store, self.vectors = store, vectors
        self.fetch_memories: Callable[[Sequence[str]], FetchResult] = (
            partial(store.fetch, decoded=decoded) if isinstance(store, Client) else store.fetch
        )
        self.seconds: Seconds = defaultdict(float)

    def query(
        self,
        query: str | np.ndarray,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
    ) -> QueryResult:
        """Search, then fetch."""
        began = time.perf_counter()
        found = self.store.search(self.vectors[int(str(query))], top_k=top_k, where=where)
        has_found = time.perf_counter()
        fetched = self.fetch_memories([hit.passage_id for hit in found.hits])
        self.seconds["retrieve"] += has_found - began
        self.seconds["fetch"] += time.perf_counter() - has_found
        return QueryResult(
            collection=collection,
            version=found.version,
            hits=found.hits,
            encoder_id=fetched.encoder_id,
            codec_id=fetched.codec_id,
            memories=fetched.memories,
        )

    def fetch(self, passage_ids: Sequence[str], *, collection: str = "default") -> FetchResult:
        """As the store."""
        return self.store.fetch(passage_ids, collection=collection)


def run(context: Context) -> Outcome:
    """Answer questions in four ways, in turns."""
    dim, num_passages = (64, 500) if context.quick else (768, 20_000)
    batch_size, rounds, calls = (2, 2, 1) if context.quick else (4, 5, 4)
    built = build(context.work / "store", num_passages, context.seed, dim)
    model, tokenizer_file = _model(dim, context.seed), _tokenizer_file()
    store = open_store(built.folder)
    with (
        serve(built.folder) as served,
        Client(served.address, cache_dir=context.work / "codecs") as client,
    ):
        sources = {
            _EMBEDDED: TimedSource(store, built.questions),
            _CODES: TimedSource(client, built.questions),
            _VECTORS: TimedSource(client, built.questions, "bfloat16"),
        }
        readers = {
            name: LumenReader(model, tokenizer_file, source, top_k=_TOP_K)
            for name, source in sources.items()
        }
        ways = {name: _reading(readers[name], sources[name], batch_size) for name in sources}
        ways[_TEXT] = _encoding_anew(model, tokenizer_file, client, built.questions, batch_size)
        gates = check(
            {
                "the three sources of memories give the same answers": _same(readers),
                "all four ways read as many tokens": lambda: (
                    len({w(0)[1] for w in ways.values()}) == 1
                ),
            }
        )
        seconds, num_tokens = _measure(ways, rounds, calls)
    record_bytes = 2 * built.pins.record_words
    wire = {_EMBEDDED: 0, _CODES: record_bytes, _VECTORS: 2 * dim, _TEXT: 4}
    return Outcome(
        gates=gates,
        settings={
            **built.settings(),
            "top_k": _TOP_K,
            "questions_a_call": batch_size,
            "answer_tokens": _ANSWER_TOKENS,
            "layers": model.config.num_layers,
            "live_layers": model.config.num_live_layers,
            "calls_each": rounds * calls,
        },
        tables=[
            _stage_table(seconds, batch_size),
            _rate_table(seconds, num_tokens, wire),
        ],
        notes=[
            "Retrieve: exact search by vector; question vectors are given. Fetch: records or "
            "vectors to the reader's process, by passage ids. Decode: to one padded float32 "
            "tensor; where passages are encoded anew, tokenizing and the memory encoder's layers "
            "instead, to which FiD would add the question's share in each passage.",
            "Stages are those of one call at a time; in `answer`, retrieve, fetch and decode of a "
            "batch go on while the model runs the batch before.",
        ],
    )


def _model(dim: int, seed: int) -> Lumen:
    torch.manual_seed(seed)
    config = T5Config(
        d_model=dim,
        d_ff=4 * dim,
        d_kv=min(64, dim),
        num_heads=max(1, dim // 64),
        num_layers=12,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    model = Lumen.from_t5(config, live_fraction="1/3").eval()
    model.generator.generation_config.eos_token_id = None  # every answer has all its tokens
    return model


def _tokenizer_file() -> Path:
    return plan_encoder(EncoderOptions()).checkpoint.tokenizer_file


def _asked(turn: int, batch_size: int) -> list[str]:
    return [str((turn * batch_size + i) % 1_000) for i in range(batch_size)]


def _same(readers: dict[str, LumenReader]) -> Callable[[], bool]:
    def holds() -> bool:
        questions = _asked(0, 4)
        one, *others = (
            [a.token_ids for a in reader.answer(questions, max_new_tokens=_ANSWER_TOKENS)]
            for reader in readers.values()
        )
        return all(other == one for other in others)

    return holds


def _reading(reader: LumenReader, source: TimedSource, batch_size: int) -> Way:
    def once(turn: int) -> tuple[Seconds, int]:
        source.seconds.clear()
        parts: list[Timings] = []
        reader.answer(
            _asked(turn, batch_size),
            batch_size=batch_size,
            max_new_tokens=_ANSWER_TOKENS,
            on_batch=parts.append,
        )
        took = sum(parts, Timings())
        model = {"decode": took.decode_s, "live": took.live_s, "decoder": took.decoder_s}
        return {**source.seconds, **model}, took.num_tokens

    return once


def _encoding_anew(
    model: Lumen, tokenizer_file: Path, client: Client, vectors: np.ndarray, batch_size: int
) -> Way:
    """Return the way of a reader that has no memories: the passages' text is encoded on the way."""
    passages_tokenizer = load_tokenizer(tokenizer_file)
    questions_tokenizer = QuestionTokenizer(tokenizer_file, len(model.generator.shared.weight))

    @torch.inference_mode()
    def once(turn: int) -> tuple[Seconds, int]:
        clock = [time.perf_counter()]
        asked = _asked(turn, batch_size)
        found = [client.search(vectors[int(each)], top_k=_TOP_K) for each in asked]
        clock.append(time.perf_counter())
        hits = [hit for result in found for hit in result.hits]
        clock.append(time.perf_counter())
        tokens = passages_tokenizer.encode_batch([hit.text or "" for hit in hits])
        # Texts are shorter or longer than the made-up memories: as many tokens are the same work.
        pairs = zip(tokens, hits, strict=True)
        rows = [np.resize(each.ids, hit.num_tokens) for each, hit in pairs]
        ids, mask = (torch.from_numpy(each) for each in pad(rows, 0))
        mask = mask.bool()
        memories = model.encode_memories(ids, mask)
        clock.append(time.perf_counter())
        (batch,) = questions_tokenizer.batches(asked, batch_size)
        question_ids, question_mask = batch.padded(torch.device("cpu"))
        hidden = model.encode_questions(question_ids, question_mask)
        shape = (batch_size, -1, ids.shape[1])
        fused = model.fuse(
            hidden, question_mask, memories.reshape(*shape, memories.shape[2]), mask.reshape(shape)
        )
        clock.append(time.perf_counter())
        model.generate_from(fused, max_new_tokens=_ANSWER_TOKENS)
        clock.append(time.perf_counter())
        return dict(zip(_STAGES, np.diff(clock).tolist(), strict=True)), int(mask.sum())

    return once


def _measure(
    ways: dict[str, Way], rounds: int, calls: int
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, float]]:
    """Return (rounds, calls) seconds of every stage of every way, and its tokens a call."""
    for way in ways.values():
        way(0)
    order = np.random.default_rng(0)
    seconds: dict[str, list[Seconds]] = {name: [] for name in ways}
    num_tokens = dict.fromkeys(ways, 0.0)
    for turn in range(rounds * calls):
        for name in order.permutation(list(ways)):
            took, count = ways[name](turn)
            seconds[name].append(took)
            num_tokens[name] += count / (rounds * calls)
    by_stage = {
        name: {
            stage: np.array([each[stage] for each in took]).reshape(rounds, calls)
            for stage in _STAGES
        }
        for name, took in seconds.items()
    }
    return by_stage, num_tokens


def _stage_table(seconds: dict[str, dict[str, np.ndarray]], batch_size: int) -> Table:
    def milliseconds(array: np.ndarray) -> Figure:
        return spread(1e3 * np.median(array, axis=1) / batch_size, "ms")

    return Table(
        title="Milliseconds a question, by stage",
        columns=("memories", *_STAGES, "all"),
        rows=[
            (
                name,
                *(milliseconds(stages[stage]) for stage in _STAGES),
                milliseconds(np.sum(list(stages.values()), axis=0)),
            )
            for name, stages in seconds.items()
        ],
    )


def _rate_table(
    seconds: dict[str, dict[str, np.ndarray]], num_tokens: dict[str, float], wire: dict[str, int]
) -> Table:
    def arriving(name: str) -> Figure:
        return rate(seconds[name]["fetch"] + seconds[name]["decode"], num_tokens[name], "tokens/s")

    return Table(
        title="Memories in the reader's tensor, from the end of the search on",
        columns=("memories", "tokens/s", "payload a token"),
        rows=[(name, arriving(name), f"{wire[name]} B") for name in seconds],
    )
