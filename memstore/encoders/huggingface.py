"""Memories from the bottom of a Hugging Face encoder, retrieval vectors from its top.

Source: LUMEN (arXiv 2301.10448): the memory is the output of the first (1 - live fraction) of the
layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from memstore.encoders.batching import plan_batches
from memstore.encoders.checkpoint import Checkpoint
from memstore.encoders.identity import EncoderPlan
from memstore.encoders.stack import EncoderStack
from memstore.encoders.texts import TextEmbedder, render
from memstore.types import EncodedBatch, EncoderIdentity, TokenizedPassage

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
        self._texts = make_embedder(plan.checkpoint, self._stack)
        self._has_own_retriever = plan.has_own_retriever
        self._retriever = (
            load_embedder(plan.retriever, device=device) if plan.has_own_retriever else self._texts
        )
        self._token_budget = _token_budget(self._stack)

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
                embeddings = self.embed([render(self._template, passages[row]) for row in rows])
            yield EncodedBatch(rows, output.memories, offsets, embeddings)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the retrieval vectors of questions.

        Args:
            texts: any length; cut at the retriever's positions (at 512 tokens if it has none).

        Returns:
            (len(texts), E) float32, unit length.
        """
        return self._retriever.embed(texts)

    def question(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a question's retrieval vector and its memory, cut as in `embed`.

        Returns:
            (E,) float32 of unit length; (T, D) float32, special tokens included as in passages.
        """
        output = self._stack.forward(self._texts.tokenize([text]))
        vector = self.embed([text])[0] if self._has_own_retriever else output.pooled[0]
        return vector, output.memories


def make_embedder(checkpoint: Checkpoint, stack: EncoderStack) -> TextEmbedder:
    """Return what reads questions by a stack: cut at its positions, at 512 tokens if it has none.

    Raises:
        ConfigError, MissingDependencyError: as `load_tokenizer`.
    """
    return TextEmbedder(
        checkpoint,
        stack,
        max_tokens=checkpoint.max_tokens or MAX_QUESTION_TOKENS,
        token_budget=_token_budget(stack),
    )


def load_embedder(checkpoint: Checkpoint, *, device: str) -> TextEmbedder:
    """Return a checkpoint as the retriever of another encoder.

    Raises:
        ConfigError, CorruptionError, MissingDependencyError: as `EncoderStack` and `make_embedder`.
    """
    return make_embedder(checkpoint, EncoderStack(checkpoint, device=device))


def _token_budget(stack: EncoderStack) -> int:
    return GPU_TOKEN_BUDGET if stack.device.type == "cuda" else CPU_TOKEN_BUDGET
