"""Perplexities, and how much an arm's differs from another's, with the interval it lies in.

Documents and seeds are drawn anew with replacement. What is compared keeps what both made of a
document under a seed, so that what both find hard does not widen the interval; few seeds do, see
`experiments.statistics.widened`.
"""

from __future__ import annotations

import numpy as np

from experiments.statistics import RESAMPLES, TAIL, Interval, widened


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


def _exponential(sums: np.ndarray, counts: np.ndarray, less: float) -> Interval:
    num_seeds, num_documents = sums.shape
    rng = np.random.default_rng(0)
    even = np.full(num_documents, 1 / num_documents)
    documents = rng.multinomial(num_documents, even, size=RESAMPLES)  # (R, N)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=RESAMPLES)
    totals = ((documents @ sums.T) * seeds).sum(axis=1) / num_seeds
    # A column may hold few documents: a draw without any says nothing.
    drawn = documents @ counts
    means = totals[drawn > 0] / drawn[drawn > 0]
    lower, upper = np.quantile(means, [TAIL, 1 - TAIL])
    by_seed = sums.sum(axis=1) / counts.sum()
    found = widened(Interval(float(by_seed.mean()), float(lower), float(upper)), by_seed)
    bounds = np.exp([found.value, found.lower, found.upper]) - less
    return Interval(*bounds.tolist())
