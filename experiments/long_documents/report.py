"""The tables: how often the gold passage is the best, and what reading whole gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.long_documents.articles import Articles
from experiments.long_documents.facts import Facts
from experiments.long_documents.runs import ARMS, FACTS, WINDOWS
from experiments.results import table
from experiments.statistics import Interval, difference, from_text, mean


def report(rows: Sequence[dict[str, Any]], tasks: dict[str, Facts | Articles]) -> str:
    """Return a table for each task that has been run."""
    parts = []
    for name, arms in ARMS.items():
        found = {
            arm: {row["seed"]: row for row in rows if _arm(row) == (name, *arm)} for arm in arms
        }
        found = {arm: by_seed for arm, by_seed in found.items() if by_seed}
        if found:
            parts.append(f"{name}:\n\n{_table(found, tasks[name], by_group=name == FACTS)}")
    return "\n\n".join(parts) or "Nothing has been run yet."


def _arm(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["task"], row["learnt from"], row["reads"]


def _table(
    found: dict[tuple[str, str], dict[int, dict[str, Any]]],
    task: Facts | Articles,
    *,
    by_group: bool,
) -> str:
    test = task.test()
    groups = np.array([each.group for each in test.questions])
    columns = ["learnt from", "reads", "recall@1", "recall@5", "MRR", "seeds"]
    if by_group:
        columns += [f"at {each}" for each in test.groups]
    columns.append(f"recall@1 above {WINDOWS}, read so")
    lines = []
    for (learnt, reads), by_seed in found.items():
        ranks = _ranks(by_seed, len(groups))
        shares = (ranks == 1, ranks <= 5, 1 / ranks)
        line = [learnt, reads, *(_percent(_mean(each)) for each in shares), str(len(by_seed))]
        if by_group:
            line += [
                f"{100 * (ranks[:, groups == group] == 1).mean():.1f}"
                for group in range(len(test.groups))
            ]
        line.append(_above(by_seed, found.get((WINDOWS, WINDOWS), {}), len(groups)))
        lines.append(line)
    return table(columns, lines)


def _above(
    arm: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]], num_questions: int
) -> str:
    seeds = sorted(arm.keys() & baseline.keys())
    if not seeds or arm is baseline:
        return ""
    best, others = (
        (_ranks({seed: each[seed] for seed in seeds}, num_questions) == 1).astype(float)
        for each in (arm, baseline)
    )
    return _percent(difference(best, others, np.ones(best.shape, np.int64)), sign="+")


def _ranks(by_seed: dict[int, dict[str, Any]], num_questions: int) -> np.ndarray:
    """Return (S, Q)."""
    return np.stack(
        [from_text(by_seed[seed]["ranks"], num_questions)[:, 0] for seed in sorted(by_seed)]
    )


def _mean(outcomes: np.ndarray) -> Interval:
    return mean(outcomes.astype(float), np.ones(outcomes.shape, np.int64))


def _percent(interval: Interval, *, sign: str = "") -> str:
    bounds = " … ".join(f"{100 * each:{sign}.1f}" for each in (interval.lower, interval.upper))
    return f"{100 * interval.value:{sign}.1f} [{bounds}]"
