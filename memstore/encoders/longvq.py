"""Memories of documents that LongVQ reads whole: a passage's memory has seen all of its document.

Source: LongVQ (arXiv 2404.11163) for the model; where it is cut is LUMEN's (arXiv 2301.10448): the
memory is the hidden state after the first (1 - live fraction) of the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from memstore.encoders.batching import plan_batches
from memstore.encoders.documents import find_documents, pooled_lengths, span_means
from memstore.encoders.huggingface import load_embedder
from memstore.encoders.identity import EncoderPlan
from memstore.encoders.longvq_stack import LongVQStack
from memstore.encoders.stack import StackOutput
from memstore.encoders.texts import TextEmbedder, render
from memstore.errors import ConfigError
from memstore.types import EncodedBatch, EncoderIdentity, TokenizedPassage

# Tokens in a batch of documents, as `LongVQStack.cost` counts them; a longer one has a batch to
# itself. On a CPU four times as many leave its cache: documents of 600 tokens took half as long
# again.
CPU_TOKEN_BUDGET = 2048
GPU_TOKEN_BUDGET = 1 << 18  # not measured
# Questions are cut here: 4,096 bytes are some 700 words.
MAX_QUESTION_TOKENS = 4096


class LongVQEncoder:
    """A `MemoryEncoder` on one device. Build it with `load_encoder`.

    Threads may share it; they take turns, since one forward pass uses all of torch's threads.
    """

    def __init__(self, plan: EncoderPlan, *, device: str) -> None:
        self.identity: EncoderIdentity = plan.identity
        self._template = plan.options.template
        self._stack = LongVQStack(
            plan.checkpoint,
            device=device,
            tap_layer=plan.num_frozen_layers,
            runs_top=not plan.has_own_retriever,
        )
        is_on_gpu = self._stack.device.type == "cuda"
        self._token_budget = GPU_TOKEN_BUDGET if is_on_gpu else CPU_TOKEN_BUDGET
        self._texts = TextEmbedder(
            plan.checkpoint,
            self._stack,
            max_tokens=MAX_QUESTION_TOKENS,
            token_budget=self._token_budget,
        )
        self._has_own_retriever = plan.has_own_retriever
        self._retriever = (
            load_embedder(plan.retriever, device=device) if plan.has_own_retriever else self._texts
        )

    def encode(self, passages: Sequence[TokenizedPassage]) -> Iterator[EncodedBatch]:
        """Encode documents in batches of like length, an order fixed by `passages` alone.

        Args:
            passages: all of some documents, document after document, cut by this encoder's
                splitter. Their token ids (T_i,), one after another, are what is read.

        Yields:
            Batches of whole documents with memories (T, D) float32, one for every `pool_tokens`
            tokens of a passage, and retrieval vectors (B, E) float32 of unit length: the mean of
            the model's output over the passage's tokens, or what the retriever makes of its text.

        Raises:
            InvalidInputError: if a document is not there from its first to its last passage.
            ShapeError: if a passage is empty or of another vocabulary.
            ConfigError: if a document is longer than memory allows; it is named, and the size.
        """
        documents = find_documents(passages)
        lengths = [sum(len(passages[row].token_ids) for row in document) for document in documents]
        costs = [self._stack.cost(length) for length in lengths]
        for batch in plan_batches(costs, self._token_budget):
            rows = [row for index in batch for row in documents[index]]
            output = self._read([passages[row] for row in rows], [lengths[i] for i in batch])
            memories, offsets = self._pool(
                output.memories, [len(passages[row].token_ids) for row in rows]
            )
            embeddings = output.pooled
            if self._has_own_retriever:
                embeddings = self.embed([render(self._template, passages[row]) for row in rows])
            yield EncodedBatch(rows, memories, offsets, embeddings)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the retrieval vectors of questions, each read as a document of its own.

        Args:
            texts: any length; cut at 4,096 tokens, or where the retriever cuts.

        Returns:
            (len(texts), E) float32, unit length.

        Raises:
            ShapeError: if a text has no token.
        """
        return self._retriever.embed(texts)

    def question(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a question's retrieval vector and its memory, cut as in `embed`.

        Returns:
            (E,) float32 of unit length; (T, D) float32, one vector a token, never pooled.

        Raises:
            ShapeError: if it has no token.
        """
        output = self._stack.forward(self._texts.tokenize([text]))
        vector = self.embed([text])[0] if self._has_own_retriever else output.pooled[0]
        return vector, output.memories

    def _read(self, passages: Sequence[TokenizedPassage], lengths: Sequence[int]) -> StackOutput:
        """Run documents of so many tokens, given by all their passages."""
        ids = np.concatenate([each.token_ids for each in passages])
        sequences = np.split(ids, np.cumsum(lengths)[:-1])
        try:
            return self._stack.forward(sequences, [len(each.token_ids) for each in passages])
        except ConfigError as err:  # the batch of a longest document, which is its first
            document_id = passages[0].passage.document_id
            raise ConfigError(
                f"document {document_id!r} of {lengths[0]:,} tokens is read whole; {err.message}, "
                "split it in the corpus, or encode it where there is more memory",
                **{**err.details, "document_id": document_id},
            ) from err

    def _pool(self, memories: np.ndarray, lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return what is kept of passages so long, and where each begins."""
        pools = [pooled_lengths(length, self.identity.pool_tokens) for length in lengths]
        offsets = np.cumsum([0, *map(len, pools)])
        if self.identity.pool_tokens > 1:
            memories = span_means(memories, [count for pool in pools for count in pool])
        return memories, offsets
