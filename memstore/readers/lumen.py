"""`LumenReader`: a LUMEN model mounted on a store, a server, or a user's own source of memories.

A batch of questions passes through four stages: retrieve, decode, live layers, decoder. The first
two of the next batch go on while the model runs this one.

Source: LUMEN (arXiv 2301.10448).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from memstore.encoders.sources import resolve_source
from memstore.encoders.stack import choose_device
from memstore.errors import ConfigError
from memstore.models.checkpoints import TOKENIZER_FILE
from memstore.models.lumen import Lumen
from memstore.readers.answers import Answer, Timings
from memstore.readers.decoding import MemoryDecoder, PaddedMemories
from memstore.readers.pins import check_collection, check_result
from memstore.readers.prefetch import all_of, in_thread, prefetch, prefetch_async
from memstore.readers.questions import QuestionBatch, QuestionTokenizer
from memstore.readers.sources import AsyncMemorySource, is_async
from memstore.types import Hit, MemorySource, QueryResult

_log = logging.getLogger(__name__)

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
OnBatch = Callable[[Timings], object]


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """A batch whose memories lie on the reader's device."""

    batch: QuestionBatch
    passages: list[tuple[Hit, ...]]
    memories: PaddedMemories
    retrieve_s: float
    decode_s: float


class LumenReader:
    """Answers questions from memories. Build it with `from_pretrained`.

    Every answer of the source is compared with the model's pins before its memories are decoded; a
    source that describes its collections (a `Store`, a `Client`) is asked when the reader is made.

    Args:
        model: in eval mode, on the device and in the dtype that it is to run in. One with a codec's
            rotation folded in (`memstore.models.folding`) gets memories in the rotated basis.
        tokenizer_file: its `tokenizer.json`.
        memories: what is asked for passages and memories, in a background thread; an
            `AsyncMemorySource` serves `aanswer` alone.
        collection: which of its collections.
        top_k: passages for a question, 1 or more.

    Raises:
        ConfigError: if an option is out of range, or the tokenizer is none or not the model's.
        EncoderMismatchError, CodecMismatchError: if the collection holds memories of another
            encoder, codec or width than the model was trained on.
        MemstoreError: as the source, if it cannot describe the collection.
    """

    def __init__(
        self,
        model: Lumen,
        tokenizer_file: Path,
        memories: MemorySource | AsyncMemorySource,
        *,
        collection: str = "default",
        top_k: int = 8,
    ) -> None:
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}; wanted 1 or more")
        self._model = model
        if not model.config.encoder_id:
            _log.warning(
                "this reader is not pinned to an encoder: it reads any memories of its width, "
                "sense or not; memstore train pins it"
            )
        check_collection(model.config, memories, collection)
        weight = model.generator.shared.weight
        self._tokenizer = QuestionTokenizer(tokenizer_file, len(weight))
        self._memories = memories
        self._is_async = is_async(memories)
        self._collection, self._top_k = collection, top_k
        self._device: torch.device = weight.device
        self._decoder = MemoryDecoder(model.config, weight.device, weight.dtype)
        end = model.generator.generation_config.eos_token_id
        self._end_ids = frozenset([end] if isinstance(end, int) else end or ())

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        memories: MemorySource | AsyncMemorySource,
        *,
        collection: str = "default",
        top_k: int = 8,
        device: str | None = None,
        dtype: str | None = None,
    ) -> LumenReader:
        """Load a LUMEN checkpoint with its tokenizer, and mount it on a source of memories.

        Args:
            folder: what `Lumen.save_pretrained` wrote, with `tokenizer.json`.
            memories: as of the class.
            collection: as of the class.
            top_k: as of the class.
            device: None: a GPU if there is one, else the CPU.
            dtype: "bfloat16" or "float32"; None: bfloat16 on a GPU, else as the checkpoint has it.

        Raises:
            ConfigError: if there is no tokenizer in the folder; as the class and
                `Lumen.from_pretrained`.
            EncoderMismatchError, CodecMismatchError, MemstoreError: as the class.
            EncoderNotFoundError, CorruptionError, FormatVersionError: as `Lumen.from_pretrained`.
        """
        if dtype not in (None, *_DTYPES):
            raise ConfigError(f"dtype: got {dtype!r}, wanted {' or '.join(_DTYPES)}")
        tokenizer_file = resolve_source(str(folder)) / TOKENIZER_FILE
        if not tokenizer_file.is_file():
            raise ConfigError(
                f"reader {folder}: no {TOKENIZER_FILE}; save the model with its tokenizer",
                source=folder,
            )
        model = Lumen.from_pretrained(folder)
        there = torch.device(choose_device(device))
        if dtype is None and there.type == "cuda":
            dtype = "bfloat16"
        model.to(device=there, dtype=None if dtype is None else _DTYPES[dtype])
        return cls(model, tokenizer_file, memories, collection=collection, top_k=top_k)

    def answer(
        self,
        questions: Sequence[str],
        *,
        batch_size: int = 8,
        max_new_tokens: int = 32,
        on_batch: OnBatch | None = None,
    ) -> list[Answer]:
        """Answer questions, each from its own passages; what is asked beside it changes nothing.

        Args:
            questions: none of them empty or longer than 512 tokens; all are checked first.
            batch_size: questions that the model reads together. The memories of two batches are
                held at a time: batch_size x top_k x longest passage x D numbers each.
            max_new_tokens: longest answer, end token included.
            on_batch: called with the timings of each batch, in the order of the questions.

        Returns:
            One answer a question, in order. A question for which nothing was found is answered
            alone.

        Raises:
            ConfigError: for a question as above, a number below 1, or a source that is to be
                awaited.
            EncoderMismatchError, CodecMismatchError: if the source's memories are not what the
                model was trained on.
            MemstoreError: as the source's `query`; in `stream`, where the question's answer would
                come.
        """
        return list(
            self.stream(
                questions, batch_size=batch_size, max_new_tokens=max_new_tokens, on_batch=on_batch
            )
        )

    def stream(
        self,
        questions: Sequence[str],
        *,
        batch_size: int = 8,
        max_new_tokens: int = 32,
        on_batch: OnBatch | None = None,
    ) -> Generator[Answer]:
        """Yield the answers of `answer`, batch by batch; its questions are checked at once.

        Close the iterator to stop early: the query that is under way is then awaited.
        """
        batches = self._plan(questions, batch_size, max_new_tokens)
        if self._is_async:
            raise ConfigError(
                "this reader's source of memories is to be awaited; await aanswer, or give the "
                "reader a Store or a Client"
            )
        return self._stream(batches, max_new_tokens, on_batch)

    async def aanswer(
        self,
        questions: Sequence[str],
        *,
        batch_size: int = 8,
        max_new_tokens: int = 32,
        on_batch: OnBatch | None = None,
    ) -> list[Answer]:
        """As `answer`, for an event loop, which the model does not hold up.

        An `AsyncMemorySource` is asked all questions of a batch at a time. Cancelled, this waits
        for what runs in a thread: at most one batch in the model and one query.
        """
        answers: list[Answer] = []
        batches = self._plan(questions, batch_size, max_new_tokens)
        async with aclosing(prefetch_async(self._prepare_async, batches)) as prepared:
            async for ready in prepared:
                read, timings = await in_thread(self._read, ready, max_new_tokens)
                if on_batch is not None:
                    on_batch(timings)
                answers += read
        return answers

    def _stream(
        self, batches: list[QuestionBatch], max_new_tokens: int, on_batch: OnBatch | None
    ) -> Generator[Answer]:
        with closing(prefetch(self._prepare, batches)) as prepared:
            for ready in prepared:
                answers, timings = self._read(ready, max_new_tokens)
                if on_batch is not None:
                    on_batch(timings)
                yield from answers

    def _plan(
        self, questions: Sequence[str], batch_size: int, max_new_tokens: int
    ) -> list[QuestionBatch]:
        if min(batch_size, max_new_tokens) < 1:
            raise ConfigError(
                f"batch_size is {batch_size} and max_new_tokens {max_new_tokens}; wanted 1 or more"
            )
        return self._tokenizer.batches(questions, batch_size)

    def _prepare(self, batch: QuestionBatch) -> _Ready:
        """Retrieve and decode for a batch."""
        source, start = cast("MemorySource", self._memories), time.perf_counter()
        results = []
        for question in batch.texts:
            found = source.query(question, top_k=self._top_k, collection=self._collection)
            check_result(self._model.config, found)
            results.append(found)
        return self._decode(batch, results, time.perf_counter() - start)

    async def _prepare_async(self, batch: QuestionBatch) -> _Ready:
        if not self._is_async:
            return await in_thread(self._prepare, batch)
        source, start = cast("AsyncMemorySource", self._memories), time.perf_counter()
        results = await all_of(
            source.query(question, top_k=self._top_k, collection=self._collection)
            for question in batch.texts
        )
        for found in results:
            check_result(self._model.config, found)
        return await in_thread(self._decode, batch, results, time.perf_counter() - start)

    def _decode(
        self, batch: QuestionBatch, results: list[QueryResult], retrieve_s: float
    ) -> _Ready:
        start = time.perf_counter()
        memories = self._decoder.decode([result.memories for result in results])
        passages = [
            tuple(
                hit
                for hit, memory in zip(result.hits, result.memories, strict=True)
                if memory.num_tokens
            )
            for result in results
        ]
        return _Ready(batch, passages, memories, retrieve_s, self._now() - start)

    @torch.inference_mode()
    def _read(self, ready: _Ready, max_new_tokens: int) -> tuple[list[Answer], Timings]:
        """Run the model."""
        start = self._now()
        ids, mask = ready.batch.padded(self._device)
        hidden = self._model.encode_questions(ids, mask)
        fused = self._model.fuse(hidden, mask, ready.memories.vectors, ready.memories.mask)
        has_fused = self._now()
        written = self._model.generate_from(fused, max_new_tokens=max_new_tokens).tolist()
        timings = Timings(
            num_questions=len(ready.batch.texts),
            num_tokens=int(ready.memories.mask.sum()),
            retrieve_s=ready.retrieve_s,
            decode_s=ready.decode_s,
            live_s=has_fused - start,
            decoder_s=self._now() - has_fused,
        )
        rows = zip(ready.batch.texts, ready.passages, written, strict=True)
        return [self._answer(*row) for row in rows], timings

    def _answer(self, question: str, passages: tuple[Hit, ...], ids: list[int]) -> Answer:
        end = next((place for place, each in enumerate(ids) if each in self._end_ids), len(ids))
        return Answer(question, self._tokenizer.write(ids[:end]), passages, tuple(ids[:end]))

    def _now(self) -> float:
        """Return the time when what was given to the device has been done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
