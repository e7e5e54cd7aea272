"""Memories from the bottom of a Hugging Face encoder, retrieval vectors from its top.

Source: LUMEN (arXiv 2301.10448): the memory is the output of the first (1 - live fraction) of the
layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from memstore.encoders.batching import plan_batches
from memstore.encoders.identity import EncoderPlan, plan_encoder
from memstore.encoders.options import EncoderOptions
from memstore.encoders.stack import EncoderStack
from memstore.encoders.tokens import load_tokenizer
from memstore.errors import ConfigError
from memstore.types import EncodedBatch, EncoderIdentity, Passage, TokenizedPassage

# Padded tokens in a batch. On a CPU more pad more and gain nothing (docs/results/batching.md); a
# GPU wants large ones, but this figure is not measured.
CPU_TOKEN_BUDGET = 1024
GPU_TOKEN_BUDGET = 32768
# Questions to a model without a table of positions are cut here; with one, at its end.
MAX_QUESTION_TOKENS = 512


class HuggingFaceEncoder:
    """A `MemoryEncoder` on one device. Build it with `load_encoder`.

    Threads may share it; they take turns, since one forward pass uses all of torch's threads.
    """

    def __init__(self, plan: EncoderPlan, *, device: str) -> None:
        self.identity: EncoderIdentity = plan.identity
        self._template = plan.options.template
        self._stack = EncoderStack(
            plan.checkpoint,
            device=device,
            tap_layer=plan.num_frozen_layers,
            runs_top=not plan.has_own_retriever,
        )
        retriever = plan.retriever
        self._has_own_retriever = plan.has_own_retriever
        self._retriever = (
            EncoderStack(retriever, device=device) if plan.has_own_retriever else self._stack
        )
        self._tokenizer = load_tokenizer(
            retriever, max_tokens=retriever.max_tokens or MAX_QUESTION_TOKENS
        )
        self._memory_tokenizer = (
            load_tokenizer(
                plan.checkpoint, max_tokens=plan.checkpoint.max_tokens or MAX_QUESTION_TOKENS
            )
            if plan.has_own_retriever
            else self._tokenizer
        )
        self._token_budget = (
            GPU_TOKEN_BUDGET if self._stack.device.type == "cuda" else CPU_TOKEN_BUDGET
        )

    def encode(self, passages: Sequence[TokenizedPassage]) -> Iterator[EncodedBatch]:
        """Encode passages in batches of like length, an order fixed by `passages` alone.

        Args:
            passages: token ids (T_i,) each, cut by this encoder's splitter.

        Yields:
            Batches with memories (T, D) float32 and retrieval vectors (B, E) float32 of unit
            length; T counts the special tokens, which have memories like any other token.

        Raises:
            ShapeError: if a passage is empty, longer than the model's positions, or of another
                vocabulary.
        """
        for rows in plan_batches([len(p.token_ids) for p in passages], self._token_budget):
            sequences = [passages[row].token_ids for row in rows]
            output = self._stack.forward(sequences)
            offsets = np.zeros(len(rows) + 1, np.int64)
            np.cumsum([len(ids) for ids in sequences], out=offsets[1:])
            embeddings = output.pooled
            if self._has_own_retriever:
                embeddings = self.embed([self._render(passages[row].passage) for row in rows])
            yield EncodedBatch(rows, output.memories, offsets, embeddings)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the retrieval vectors of questions.

        Args:
            texts: any length; cut at the retriever's positions (at 512 tokens if it has none).

        Returns:
            (len(texts), E) float32, unit length.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        sequences = [np.array(encoding.ids, np.int64) for encoding in encodings]
        vectors = np.empty((len(texts), self.identity.embedding_dim), np.float32)
        for rows in plan_batches([len(ids) for ids in sequences], self._token_budget):
            vectors[rows] = self._retriever.forward([sequences[row] for row in rows]).pooled
        return vectors

    def question(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a question's retrieval vector and its memory, cut as in `embed`.

        Returns:
            (E,) float32 of unit length; (T, D) float32, special tokens included as in passages.
        """
        ids = np.array(self._memory_tokenizer.encode(text).ids, np.int64)
        output = self._stack.forward([ids])
        vector = self.embed([text])[0] if self._has_own_retriever else output.pooled[0]
        return vector, output.memories

    def _render(self, passage: Passage) -> str:
        return self._template.format(title=passage.title, text=passage.text).strip()


def load_encoder(options: EncoderOptions, *, device: str | None = None) -> HuggingFaceEncoder:
    """Load an encoder.

    Args:
        options: which, and where it is cut.
        device: a torch device ("cpu", "cuda:1"); None: a GPU if there is one.

    Raises:
        ConfigError, EncoderNotFoundError, CorruptionError, MissingDependencyError: as
            `plan_encoder`; ConfigError and CorruptionError also if the weights do not fit the
            checkpoint's config or do not parse.
    """
    plan = plan_encoder(options)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as err:  # torch's words for "no such device"
        raise ConfigError(
            f"encoder device: got {device!r}, wanted one that torch sees on this machine, such as "
            '"cpu"',
            device=device,
        ) from err
    return HuggingFaceEncoder(plan, device=device)
