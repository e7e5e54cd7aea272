"""The model of a session store: text to tokens, windows into memory, memory into text.

All that enters a session's memory passes through `advance`, whether it was appended or written by
the model. With a codec, windows are read one at a time: each reads of the earlier ones what is kept
of them, so a session's memory is a function of its tokens, however they came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from memstore.errors import ConfigError, InvalidInputError
from memstore.models.checkpoints import TOKENIZER_FILE, collect_weights
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import Architecture
from memstore.models.melodi_state import MelodiState
from memstore.sessions.content import Content, Window
from memstore.sessions.rows import CodecRows, PlainRows, RowFormat, from_bytes, to_bytes
from memstore.text import load_tokenizer
from memstore.types import Codec, canonical_json

_SEGMENT_WINDOWS = 8  # read at once, as in training


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """A text as tokens.

    Attributes:
        text: the text.
        ids: (T,) int32.
        starts: where each token begins, in characters.
    """

    text: str
    ids: np.ndarray
    starts: Sequence[int]


class SessionModel:
    """A MELODI model with its tokenizer. Safe to use from many threads.

    Args:
        model: in eval mode, where it is to run, in the dtype that memory is to be kept in.
        tokenizer_file: the `tokenizer.json` that belongs to it.

    Attributes:
        id: digest of config, weights and tokenizer: two models of one id make one memory.
        config: of the model.

    Raises:
        ConfigError: if the model is a baseline, or the tokenizer knows more tokens than it.
    """

    def __init__(self, model: Melodi, tokenizer_file: Path) -> None:
        if model.config.architecture is not Architecture.MELODI:
            raise ConfigError(
                f"sessions keep the memory of MELODI; got {model.config.architecture.value}"
            )
        self._tokenizer = load_tokenizer(tokenizer_file)
        known = self._tokenizer.get_vocab_size()
        if known > model.config.vocab_size:
            raise ConfigError(
                f"{tokenizer_file}: {known} tokens, the model knows {model.config.vocab_size}; "
                "give the tokenizer that it was trained with"
            )
        self._model = model
        self.config = model.config
        self.id = _digest(model, tokenizer_file.read_bytes())

    @classmethod
    def from_pretrained(cls, folder: Path) -> SessionModel:
        """Load a checkpoint of `Melodi.save_pretrained` that has a tokenizer.

        Raises:
            NotFoundError, ConfigError, FormatVersionError, CorruptionError: as
                `Melodi.from_pretrained`.
        """
        model = Melodi.from_pretrained(folder)
        if not (folder / TOKENIZER_FILE).is_file():
            raise ConfigError(
                f"{folder}: no {TOKENIZER_FILE} beside the model; sessions take in text: save the "
                "model with its tokenizer"
            )
        return cls(model, folder / TOKENIZER_FILE)

    def row_format(self, codec: Codec | None) -> RowFormat:
        """Return how entries are kept.

        Raises:
            CodecMismatchError: if the codec is for other vectors.
        """
        dtype = self._model.embedding.weight.dtype
        if codec is None:
            return PlainRows(self.config.dim, dtype)
        return CodecRows(codec, self.config.dim, dtype)

    def tokenize(self, text: str) -> Tokens:
        """Return a text as tokens, nothing put before or after it.

        Raises:
            InvalidInputError: if the text is no Unicode, or holds no token.
        """
        try:
            text.encode()
        except UnicodeEncodeError as err:
            raise InvalidInputError(
                f"text: character {err.start} is half of a surrogate pair; wanted text that UTF-8 "
                "can spell"
            ) from None
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if not encoding.ids:
            raise InvalidInputError(
                f"text: got {len(text)} characters without a token; wanted one token or more"
            )
        return Tokens(
            text, np.array(encoding.ids, np.int32), [start for start, _ in encoding.offsets]
        )

    @torch.no_grad()
    def advance(self, content: Content, tokens: Tokens, rows: RowFormat) -> Content:
        """Take in tokens. Memory is written at the end of each window, when a token comes after it.

        Cost: the model once over each of those windows; if there is none, a copy of the tail.
        """
        window = self.config.window
        ids = np.concatenate([content.tail, tokens.ids])
        num_new = (len(ids) - 1) // window
        if not num_new:
            return replace(content, tail=ids, tail_text=content.tail_text + tokens.text)
        # The tail is never longer than a window: every cut lies in the new text.
        cuts = [tokens.starts[k * window - len(content.tail)] for k in range(1, num_new + 1)]
        texts = [tokens.text[start:stop] for start, stop in pairwise([0, *cuts])]
        texts[0] = content.tail_text + texts[0]
        state, windows = self.state(content, rows), list(content.windows)
        for after, packed in self._read(ids[: num_new * window], state, rows):
            state = after
            # Copies: a view would keep all the rows that were read with it.
            windows += [Window(texts.pop(0), each.copy()) for each in packed]
            windows = windows[-self.config.queue_windows :]
        return Content(
            content.num_windows_read + num_new,
            to_bytes(state.short).copy(),
            tuple(windows),
            ids[num_new * window :].copy(),
            tokens.text[cuts[-1] :],
        )

    def state(self, content: Content, rows: RowFormat) -> MelodiState:
        """Return a memory as the model reads it, at the start of the tail."""
        state = self._start()
        if not content.num_windows_read:
            return state
        device, dtype = state.queue.device, state.queue.dtype
        queue = state.queue.clone()
        entries = rows.unpack(content.rows())
        queue[0, queue.shape[1] - len(entries) :] = entries.to(device)
        short = from_bytes(content.short, dtype).reshape(state.short.shape).to(device)
        position = state.position + content.num_windows_read * self.config.window
        return MelodiState(position, short, queue)

    def write(
        self,
        content: Content,
        rows: RowFormat,
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
    ) -> tuple[str, Content]:
        """Go on with a text of one token or more.

        Returns:
            What was written, and the memory with it.
        """
        generator = torch.Generator(self._device).manual_seed(seed)
        parts = []
        num_left = max_new_tokens
        while num_left:
            # Not beyond the window: only what `advance` writes is what a session keeps.
            count = min(num_left, self.config.window - len(content.tail) + 1)
            made = self._model.generate(
                self._to_tensor(content.tail),
                self.state(content, rows),
                max_new_tokens=count,
                temperature=temperature,
                generator=generator,
            )
            tokens = self._spell(content.tail, made.ids[0].cpu().numpy().astype(np.int32))
            content = self.advance(content, tokens, rows)
            parts.append(tokens.text)
            num_left -= count
        return "".join(parts), content

    @torch.no_grad()
    def entries(self, text: str, *, max_windows: int | None = None) -> np.ndarray:
        """Return what a stream leaves in the queue, window by window, (N, D) float32.

        Args:
            text: the stream.
            max_windows: that are read of it; None: all.

        Raises:
            InvalidInputError: if the text holds no token, or is no Unicode.
        """
        ids, rows = self.tokenize(text).ids, self.row_format(None)
        num_windows = min(len(ids) // self.config.window, max_windows or len(ids))
        whole = num_windows * self.config.window
        parts = [rows.unpack(np.empty((0, rows.row_bytes), np.uint8))]
        for _, packed in self._read(ids[:whole], self._start(), rows):
            parts.append(rows.unpack(packed.reshape(-1, rows.row_bytes)))
        entries: np.ndarray = torch.cat(parts).float().numpy()
        return entries

    @torch.no_grad()
    def question(self, text: str) -> np.ndarray:
        """Return the summary entries of a question, (L, D) float32.

        They are what a window of the question alone, said over and over until it is full, would
        leave in the queue of a session that begins with it.

        Raises:
            InvalidInputError: if the question has no token or more than a window, or the model has
                no queue.
        """
        if not self.config.num_long_tokens:
            raise InvalidInputError("this model keeps no queue, so there is nothing to search")
        ids = self.tokenize(text).ids
        if len(ids) > self.config.window:
            raise InvalidInputError(
                f"question: got {len(ids)} tokens, wanted at most {self.config.window}, the "
                "model's window; ask a shorter one"
            )
        repeated = np.resize(ids, self.config.window)
        rows = self.row_format(None)
        ((_, packed),) = self._read(repeated, self._start(), rows)
        entries: np.ndarray = rows.unpack(packed[0]).float().numpy()
        return entries

    @property
    def _device(self) -> torch.device:
        return self._model.embedding.weight.device

    def _start(self) -> MelodiState:
        state = self._model.initial_state(1)
        assert isinstance(state, MelodiState)  # noqa: S101 - the constructor refuses all others
        return state

    def _to_tensor(self, ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(ids.astype(np.int64))[None].to(self._device)  # (1, T)

    def _read(
        self, ids: np.ndarray, state: MelodiState, rows: RowFormat
    ) -> Iterator[tuple[MelodiState, np.ndarray]]:
        """Read whole windows, some at a time; yield the state after them and the rows that they
        leave, (windows, L, row bytes).
        """
        num_long = self.config.num_long_tokens
        step = 1 if rows.codec_id else min(_SEGMENT_WINDOWS, self.config.queue_windows)
        whole = ids.reshape(-1, self.config.window)
        for first in range(0, len(whole), step):
            windows = whole[first : first + step]
            hidden = self._model.embedding(self._to_tensor(windows.reshape(-1)))
            _, state = self._model.stack.read(hidden, state)
            num_kept = state.queue.shape[1] - len(windows) * num_long
            packed = rows.pack(state.queue[0, num_kept:])
            if rows.codec_id:
                kept = rows.unpack(packed).to(self._device)
                queue = torch.cat([state.queue[:, :num_kept], kept[None]], dim=1)
                state = replace(state, queue=queue)
            yield state, packed.reshape(len(windows), num_long, rows.row_bytes)

    def _spell(self, before: np.ndarray, ids: np.ndarray) -> Tokens:
        """Return the text of tokens that follow on others: a word may need the space before it."""
        context, new = before.tolist(), ids.tolist()
        texts = [self._tokenizer.decode(context + new[:count]) for count in range(len(new) + 1)]
        # The last letter before may have been cut between its bytes, and be whole only now.
        is_cut = not texts[-1].startswith(texts[0])
        num_before = len(texts[0].rstrip("\N{REPLACEMENT CHARACTER}") if is_cut else texts[0])
        text = texts[-1][num_before:]
        starts = [min(max(0, len(each) - num_before), len(text)) for each in texts[:-1]]
        return Tokens(text, ids, starts)


def _digest(model: Melodi, tokenizer: bytes) -> str:
    """Return the sha256 of all that decides what the model makes of a text, apart from numerics."""
    digest = hashlib.sha256(canonical_json(model.config.to_dict()))
    digest.update(hashlib.sha256(tokenizer).digest())
    for name, tensor in sorted(collect_weights(model).items()):
        about = {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype)}
        digest.update(canonical_json(about))
        digest.update(to_bytes(tensor).data)
    return digest.hexdigest()
