"""Retrieval vectors of texts: a stack with its tokenizer.

Does not: cut documents into passages (`tokens.load_splitter` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from memstore.encoders.batching import plan_batches
from memstore.encoders.checkpoint import Checkpoint
from memstore.encoders.tokens import load_tokenizer
from memstore.types import TokenizedPassage

if TYPE_CHECKING:
    from memstore.encoders.stack import StackOutput


def render(template: str, tokenized: TokenizedPassage) -> str:
    """Return a passage as a text, for a retriever that is another model."""
    passage = tokenized.passage
    return template.format(title=passage.title, text=passage.text).strip()


class Stack(Protocol):
    """A model that reads token ids."""

    def forward(self, sequences: Sequence[np.ndarray]) -> StackOutput:
        """Run one batch of B sequences (T_i,), each read by itself."""
        ...

    def cost(self, num_tokens: int) -> int:
        """Return how many tokens of a batch a sequence stands for."""
        ...


class TextEmbedder:
    """Reads texts as they are, without title or template.

    Args:
        checkpoint: whose tokenizer it is.
        stack: its model.
        max_tokens: longer texts are cut.
        token_budget: most tokens in a batch.
    """

    def __init__(
        self, checkpoint: Checkpoint, stack: Stack, *, max_tokens: int, token_budget: int
    ) -> None:
        self._stack, self._width, self._token_budget = stack, checkpoint.width, token_budget
        self._tokenizer = load_tokenizer(checkpoint, max_tokens=max_tokens)

    def tokenize(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text, (T_i,) int64, special tokens included."""
        encodings = self._tokenizer.encode_batch(list(texts))
        return [np.array(encoding.ids, np.int64) for encoding in encodings]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return (len(texts), E) float32 retrieval vectors, unit length.

        Raises:
            ShapeError: if a text has no token.
        """
        sequences = self.tokenize(texts)
        costs = [self._stack.cost(len(ids)) for ids in sequences]
        vectors = np.empty((len(texts), self._width), np.float32)
        for rows in plan_batches(costs, self._token_budget):
            vectors[rows] = self._stack.forward([sequences[row] for row in rows]).pooled
        return vectors
