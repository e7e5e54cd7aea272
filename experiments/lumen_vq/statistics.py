"""Exact match, and what an arm loses to another with the interval in which the loss lies."""

from __future__ import annotations

import base64
import zlib

import numpy as np

from experiments.lumen_vq.language import END, PAD
from experiments.statistics import Interval, widened


def exact_match(predicted: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Say which answers are right to the last token.

    Args:
        predicted: (Q, T) integers; what comes after the first END does not count.
        answers: (Q, A) integers, each with one END, then PAD.

    Returns:
        (Q,) bool.
    """
    width = max(predicted.shape[1], answers.shape[1])
    is_past = np.cumsum(predicted == END, axis=1) - (predicted == END) > 0
    cut = np.where(is_past, PAD, predicted)
    same: np.ndarray = (_widened(cut, width) == _widened(answers, width)).all(axis=1)
    return same


def relative_loss(
    arm: np.ndarray,
    baseline: np.ndarray,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return 1 - EM(arm) / EM(baseline) with its paired bootstrap interval, `widened` over seeds.

    Questions and seeds are drawn anew with replacement; a question keeps what arm and baseline
    made of it under every seed, so that what both find hard does not widen the interval.

    Args:
        arm: (S, Q) bool, by seed and question.
        baseline: (S, Q) bool, of the same seeds and questions.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: if the shapes differ, or the baseline has nothing right under a seed.
    Cost: O(resamples * patterns), patterns being at most 4^S: drawing Q questions is one
        multinomial draw over the patterns of right and wrong that they show.
    """
    if arm.shape != baseline.shape or arm.ndim != 2:
        raise ValueError(f"outcomes: got {arm.shape} and {baseline.shape}, wanted (S, Q) twice")
    if not baseline.any(axis=1).all():
        raise ValueError("baseline: got nothing right, so no loss is relative to it")
    num_seeds, num_questions = arm.shape
    patterns, counts = np.unique(np.concatenate([arm, baseline]).T, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_questions, counts / num_questions, size=resamples)
    weights = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resamples)
    right = (drawn @ patterns.astype(np.int64)).reshape(resamples, 2, num_seeds)
    of_arm, of_baseline = (right * weights[:, None]).sum(axis=2).T
    lower, upper = np.quantile(1 - of_arm / np.maximum(of_baseline, 1), [0.025, 0.975])
    found = Interval(1 - float(arm.sum() / baseline.sum()), float(lower), float(upper))
    return widened(found, 1 - arm.sum(axis=1) / baseline.sum(axis=1))


def to_text(is_right: np.ndarray) -> str:
    """Write (Q,) bool as text short enough for a row of results."""
    return base64.b85encode(zlib.compress(np.packbits(is_right).tobytes(), 9)).decode()


def from_text(text: str, num_questions: int) -> np.ndarray:
    """Read what `to_text` wrote."""
    packed = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8)
    return np.unpackbits(packed, count=num_questions).astype(bool)


def _widened(ids: np.ndarray, width: int) -> np.ndarray:
    return np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=PAD)
