"""Perplexities, and how much an arm's differs from another's, with the interval it lies in.

Documents and seeds are drawn anew with replacement. What is compared keeps what both made of a
document under a seed, so that what both find hard does not widen the interval.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 4_000
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the bounds between which it lies with a confidence of 95 %."""

    value: float
    lower: float
    upper: float


def perplexity(sums: np.ndarray, counts: np.ndarray) -> Interval:
    """Return the perplexity, over seeds and documents.

    Args:
        sums: (S, N) float64, losses of a document under a seed, in nats.
        counts: (N,) integers, tokens they are of.
    """
    return _exponential(sums, counts, 0.0)


def relative_change(arm: np.ndarray, baseline: np.ndarray, counts: np.ndarray) -> Interval:
    """Return by what share the perplexity of an arm is above a baseline's.

    Args:
        arm: (S, N) float64, as of `perplexity`.
        baseline: (S, N) float64, of the same seeds and documents.
        counts: (N,) integers.

    Raises:
        ValueError: if the shapes differ.
    """
    if arm.shape != baseline.shape or arm.shape[1:] != counts.shape:
        raise ValueError(
            f"losses: got {arm.shape} and {baseline.shape} of {counts.shape} documents"
        )
    return _exponential(arm - baseline, counts, 1.0)


def share_right(right: int, asked: int) -> Interval:
    """Return the share of answers that are right with Wilson's interval."""
    share, z = right / asked, 1.96
    middle = (share + z * z / (2 * asked)) / (1 + z * z / asked)
    reach = z / (1 + z * z / asked) * np.sqrt(share * (1 - share) / asked + (z / (2 * asked)) ** 2)
    return Interval(share, middle - float(reach), middle + float(reach))


def to_text(array: np.ndarray) -> str:
    """Write numbers as text short enough for a row of results; float32 is kept of them."""
    return base64.b85encode(zlib.compress(array.astype("<f4").tobytes(), 9)).decode()


def from_text(text: str, num_rows: int) -> np.ndarray:
    """Read what `to_text` wrote of an array of so many rows, (N, P) float64."""
    flat = np.frombuffer(zlib.decompress(base64.b85decode(text)), "<f4")
    return flat.reshape(num_rows, -1).astype(np.float64)


def _exponential(sums: np.ndarray, counts: np.ndarray, less: float) -> Interval:
    num_seeds, num_documents = sums.shape
    rng = np.random.default_rng(0)
    even = np.full(num_documents, 1 / num_documents)
    documents = rng.multinomial(num_documents, even, size=_RESAMPLES)  # (R, N)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=_RESAMPLES)
    totals = ((documents @ sums.T) * seeds).sum(axis=1) / num_seeds
    # A column may hold few documents: a draw without any says nothing.
    drawn = documents @ counts
    means = totals[drawn > 0] / drawn[drawn > 0]
    lower, upper = np.exp(np.quantile(means, [_TAIL, 1 - _TAIL])) - less
    value = float(np.exp(sums.mean(axis=0).sum() / counts.sum()) - less)
    return Interval(value, float(lower), float(upper))
