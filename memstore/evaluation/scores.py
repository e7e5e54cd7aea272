"""A measure over queries: its values, their mean, and how far chance alone could have moved it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memstore.errors import ShapeError

_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """One measure.

    Attributes:
        measure: its name, such as "nDCG@10".
        values: (Q,) float64, one a query, in the order of the queries that were scored.
        mean: of the values.
        low, high: the 95 % bootstrap interval of the mean.
    """

    measure: str
    values: np.ndarray
    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Return the mean and its interval."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def score(measure: str, values: np.ndarray) -> Score:
    """Summarize a measure's values, (Q,) floats.

    Raises:
        ShapeError: as `bootstrap_interval`.
    """
    values = np.asarray(values, np.float64)
    low, high = bootstrap_interval(values)
    return Score(measure, values, float(values.mean()), low, high)


def bootstrap_interval(values: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean.

    Resamples of equal seed and length draw the same rows: of two systems' values for the same
    queries, the differences are compared query by query.

    Args:
        values: (Q,) floats, Q ≥ 1.
        seed: of the resamples.

    Returns:
        The 2.5th and 97.5th percentile of the means of 2,000 resamples.

    Raises:
        ShapeError: if `values` is not a list of one or more finite numbers.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ShapeError(f"bootstrap: got shape {values.shape}; wanted (Q,) finite values, Q >= 1")
    rng = np.random.default_rng(seed)
    count = len(values)
    means = [values[rng.integers(0, count, count)].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
