"""The tables of docs/results/minilm_reader.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments.minilm_reader.arms import ADAPTED, AS_TRAINED, JOINT, NUM_FOLDS, RAW, RAW_BYTES
from experiments.results import table

_RESAMPLES = 10_000
_TITLES = {
    AS_TRAINED: "Reader trained on raw memories",
    ADAPTED: "Reader trained on, on memories as decoded",
    JOINT: "Memory encoder, codebook and reader trained on together",
}

Scores = dict[str, np.ndarray]
"""\"em" and "f1": (Q,), the mean over seeds."""


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return the tables of what has been run."""
    parts = []
    readings = [row for row in rows if row["task"] == "reading"]
    for mode, title in _TITLES.items():
        found = _by_arm([row for row in readings if row["mode"] == mode])
        if RAW in found:
            parts.append(f"{title}:\n\n{_reading_table(found)}")
    rankings = [row for row in rows if row["task"] == "ranking"]
    if rankings:
        parts.append(f"Cranfield, ranked by the live layers:\n\n{_ranking_table(rankings)}")
    return "\n\n".join(parts)


def paired_interval(values: np.ndarray, baseline: np.ndarray) -> tuple[float, float, float]:
    """Return the mean difference of (Q,) scores and its 95 % bootstrap interval over questions."""
    differences = values - baseline
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(differences), size=(_RESAMPLES, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def _by_arm(rows: Iterable[dict[str, Any]]) -> dict[str, tuple[dict[str, Any], Scores]]:
    """Return a row and the scores by question of every arm of which all folds have been run."""
    runs: dict[str, dict[int, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        runs[row["arm"]][row["seed"]][row["fold"]] = row
    found = {}
    for arm, seeds in runs.items():
        whole = [
            [folds[i] for i in range(NUM_FOLDS)] for folds in seeds.values() if len(folds) == 3
        ]
        if whole:
            em = [[float(c) for row in folds for c in row["em_by_question"]] for folds in whole]
            f1 = [[value for row in folds for value in row["f1_by_question"]] for folds in whole]
            scores = {"em": np.mean(em, axis=0), "f1": np.mean(f1, axis=0)}
            scores["found"] = np.array([row["found"] for folds in whole for row in folds])
            found[arm] = whole[0][0], scores
    return found


def _reading_table(found: dict[str, tuple[dict[str, Any], Scores]]) -> str:
    _, raw = found[RAW]
    lines = []
    for arm, (row, scores) in found.items():
        cells = [arm, str(row["bytes_per_token"]), f"{RAW_BYTES / row['bytes_per_token']:.1f}"]
        cells += [f"{100 * scores[name].mean():.1f}" for name in ("em", "f1", "found")]
        for name in ("em", "f1"):
            value, low, high = (100 * x for x in paired_interval(scores[name], raw[name]))
            cells.append("" if arm == RAW else f"{value:+.1f} ({low:+.1f} to {high:+.1f})")
        lines.append(cells)
    columns = [
        "memories",
        "bytes",
        "ratio",
        "EM",
        "F1",
        "passage",
        "EM against raw",
        "F1 against raw",
    ]
    return table(columns, lines)


def _ranking_table(rows: Sequence[dict[str, Any]]) -> str:
    by_arm: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_arm[row["arm"]].append(row)
    lines = [
        [
            arm,
            str(some[0]["bytes_per_token"]),
            f"{np.mean([row['ndcg@10'] for row in some]):.3f}",
            f"{np.mean([row['top 10 kept'] for row in some]):.3f}",
        ]
        for arm, some in by_arm.items()
    ]
    return table(["memories", "bytes", "nDCG@10", "top 10 kept"], lines)
