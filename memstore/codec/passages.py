"""Passages as rows of one array: passage i is rows `offsets[i]:offsets[i + 1]`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def places_in_passages(offsets: np.ndarray) -> np.ndarray:
    """Return (T,) int64: how many tokens of its passage stand before each token."""
    lengths = np.diff(offsets)
    places: np.ndarray = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return places


def rows_of(offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the chosen passages, one after another, and the offsets among those."""
    lengths = np.diff(offsets)[chosen]
    offsets_among = np.concatenate([[0], np.cumsum(lengths)])
    rows: np.ndarray = places_in_passages(offsets_among) + np.repeat(offsets[chosen], lengths)
    return rows, offsets_among


def blocks(offsets: np.ndarray, num_rows: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of passages that cover all: each of at most so many rows, or of one passage."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + num_rows, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last
