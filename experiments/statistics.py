"""What an arm reaches and by how much it differs from another, with the interval it lies in.

Items and seeds are drawn anew with replacement. What is compared keeps what both arms made of an
item under a seed, so that what both find hard does not widen the interval. Drawing few seeds anew
never reaches beyond the outermost of them, and is too sure of itself: where Student's interval over
the seeds' own figures is wider, it is taken (`widened`).
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import astuple, dataclass

import numpy as np

RESAMPLES = 4_000
TAIL = 0.025
# Quantile 0.975 of Student's t by number of seeds; that of many more is hardly below the last.
_STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the bounds between which it lies with a confidence of 95 %."""

    value: float
    lower: float
    upper: float

    def within(self, least: float, most: float) -> Interval:
        """Return what of it a figure can be that is never outside these."""
        return Interval(*(min(max(each, least), most) for each in astuple(self)))


def widened(interval: Interval, by_seed: np.ndarray) -> Interval:
    """Return an interval that is at least as wide as Student's over seeds.

    Args:
        interval: of the bootstrap.
        by_seed: (S,) the same figure under each seed; of one seed nothing is known.
    """
    if len(by_seed) < 2:
        return interval
    quantile = _STUDENT[min(len(by_seed), max(_STUDENT))]
    reach = quantile * float(by_seed.std(ddof=1)) / len(by_seed) ** 0.5
    value = interval.value
    return Interval(value, min(interval.lower, value - reach), max(interval.upper, value + reach))


def mean(sums: np.ndarray, counts: np.ndarray) -> Interval:
    """Return the mean outcome over seeds and items.

    Args:
        sums: (S, N) float64, right answers or bits of an item under a seed.
        counts: (S, N) integers, answers or bytes that they are of; 0: not tested under that seed.

    Raises:
        ValueError: if the shapes differ, or nothing was tested.
    """
    if sums.shape != counts.shape or sums.ndim != 2 or not counts.any():
        raise ValueError(f"outcomes: got {sums.shape} of {counts.shape}, wanted (S, N) twice")
    num_seeds, num_items = sums.shape
    # Items with equal outcomes are one pattern: drawing all items is one draw of its multinomial.
    patterns, found = np.unique(np.concatenate([sums, counts]).T, axis=0, return_counts=True)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(num_items, found / num_items, size=RESAMPLES)  # (R, patterns)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=RESAMPLES)
    totals = (drawn @ patterns).reshape(RESAMPLES, 2, num_seeds)
    of_sums, of_counts = (totals * seeds[:, None]).sum(axis=2).T
    # A group may be of few items: a draw without any says nothing.
    means = of_sums[of_counts > 0] / of_counts[of_counts > 0]
    lower, upper = np.quantile(means, [TAIL, 1 - TAIL])
    found = Interval(float(sums.sum() / counts.sum()), float(lower), float(upper))
    is_tested = counts.any(axis=1)
    return widened(found, sums[is_tested].sum(axis=1) / counts[is_tested].sum(axis=1))


def difference(arm: np.ndarray, baseline: np.ndarray, counts: np.ndarray) -> Interval:
    """Return by how much the mean outcome of an arm is above a baseline's.

    Args:
        arm: (S, N) float64, as of `mean`.
        baseline: (S, N) float64, of the same seeds and items.
        counts: (S, N) integers, of both.

    Raises:
        ValueError: if the shapes differ, or nothing was tested.
    """
    if arm.shape != baseline.shape:
        raise ValueError(f"outcomes: got {arm.shape} and {baseline.shape}, wanted them alike")
    return mean(arm - baseline, counts)


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
