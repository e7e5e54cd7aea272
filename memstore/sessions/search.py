"""Which window of a session speaks of something: MaxSim between summary entries.

A queue of some thousand entries needs no index. They are decoded once and compared with the
question's as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from memstore.errors import ConfigError
from memstore.sessions.values import SessionHit, SessionWindow

MAX_TOP_K = 1_000


def check_top_k(top_k: int) -> None:
    """Raise `ConfigError` unless it is a number of hits."""
    if not 1 <= top_k <= MAX_TOP_K:
        raise ConfigError(f"top_k: got {top_k}, wanted 1 to {MAX_TOP_K:,}")


def score_windows(question: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Return the score of each window.

    Args:
        question: (L, D) float32, the question's entries.
        entries: (N, L, D) float32, those of N windows.

    Returns:
        (N,) float32: the mean over the question's entries of the largest cosine with one of the
        window's.

    Source: the interaction is ColBERT's (arXiv 2004.12832).
    """
    num_windows, num_entries, dim = entries.shape
    cosines = _unit(question) @ _unit(entries.reshape(-1, dim)).T
    best = cosines.reshape(len(question), num_windows, num_entries).max(axis=2)
    scores: np.ndarray = best.mean(axis=0)
    return scores


def best_windows(
    question: np.ndarray, entries: np.ndarray, windows: Sequence[SessionWindow], top_k: int
) -> list[SessionHit]:
    """Return the `top_k` of N windows, of equals the earlier one first.

    Args:
        question: as of `score_windows`.
        entries: likewise.
        windows: the N windows.
        top_k: how many.
    """
    scores = score_windows(question, entries)
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [SessionHit(**asdict(windows[row]), score=float(scores[row])) for row in order]


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: np.ndarray = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return scaled
