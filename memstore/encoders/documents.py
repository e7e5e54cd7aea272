"""Passages that are spans of a document: found in a list of them, and averages over spans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memstore.errors import InvalidInputError
from memstore.types import TokenizedPassage


def find_documents(passages: Sequence[TokenizedPassage]) -> list[range]:
    """Return where the passages of each document are, in order.

    Raises:
        InvalidInputError: if they are not all passages of some documents, document after document:
            what is read without its beginning, middle or end would have another memory.
    """
    documents: list[range] = []
    first = 0
    for row, each in enumerate(passages):
        begun = passages[first].passage.document_id
        if each.passage.document_id != begun and row > first:
            raise _incomplete(begun, f"{row - first} of its passages and not the last")
        if each.passage.number != row - first:
            got = f"passage {each.passage.number} where {row - first} was due"
            raise _incomplete(each.passage.document_id, got)
        if each.is_last:
            documents.append(range(first, row + 1))
            first = row + 1
    if first < len(passages):
        got = f"{len(passages) - first} of its passages and not the last"
        raise _incomplete(passages[first].passage.document_id, got)
    return documents


def span_means(rows: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Return the mean of each span of rows.

    Args:
        rows: (T, D) float32.
        lengths: rows of each of S spans, one after another; at least 1, T in all.

    Returns:
        (S, D) float32.
    """
    counts = np.array(lengths, np.int64)
    starts = np.cumsum(counts) - counts
    sums: np.ndarray = np.add.reduceat(rows, starts, axis=0)
    return sums / counts.astype(np.float32)[:, None]


def pooled_lengths(num_tokens: int, pool_tokens: int) -> list[int]:
    """Return how many tokens each vector of a passage stands for: the last one for what is left."""
    num_whole, rest = divmod(num_tokens, pool_tokens)
    return [pool_tokens] * num_whole + ([rest] if rest else [])


def _incomplete(document_id: str, got: str) -> InvalidInputError:
    return InvalidInputError(
        f"document {document_id!r}: got {got}; this encoder reads documents whole: give it all "
        "passages of each that its splitter makes, in their order",
        document_id=document_id,
    )
