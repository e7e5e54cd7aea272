"""The tables: how often the gold passage is the best, and what reading whole gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.long_documents.runs import ARMS, FACTS, WINDOWS
from experiments.long_documents.task import Task, Test
from experiments.results import table
from experiments.statistics import Interval, difference, from_text, mean


def report(rows: Sequence[dict[str, Any]], tasks: Mapping[str, Task]) -> str:
    """Return a table for each task that has been run."""
    parts = []
    for name, arms in ARMS.items():
        found = {
            arm: {row["seed"]: row for row in rows if _arm(row) == (name, *arm)} for arm in arms
        }
        found = {arm: by_seed for arm, by_seed in found.items() if by_seed}
        if found:
            test = tasks[name].test()
            parts.append(f"{name}:\n\n{_table(found, test, by_group=name == FACTS)}")
    return "\n\n".join(parts) or "Nothing has been run yet."


def _arm(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["task"], row["learnt from"], row["reads"]


def _table(
    found: dict[tuple[str, str], dict[int, dict[str, Any]]],
    test: Test,
    *,
    by_group: bool,
) -> str:
    groups = np.array([each.group for each in test.questions])
    columns = ["learnt from", "reads", "recall@1", "recall@5", "MRR", "seeds"]
    if by_group:
        columns += [f"at {each}" for each in test.groups]
    columns.append(f"recall@1 above {WINDOWS}, read so")
    lines = []
    for (learnt, reads), by_seed in found.items():
        ranks = _ranks(by_seed, len(groups))
        shares = (ranks == 1, ranks <= 5, 1 / ranks)
        figures = (mean(*_by_source(each, test)) for each in shares)
        line = [learnt, reads, *map(_percent, figures), str(len(by_seed))]
        if by_group:
            line += [
                f"{100 * (ranks[:, groups == group] == 1).mean():.1f}"
                for group in range(len(test.groups))
            ]
        line.append(_above(by_seed, found.get((WINDOWS, WINDOWS), {}), test))
        lines.append(line)
    told = table(columns, lines)
    if test.floor is not None:
        told += f"\n\nWho sees the passage alone can be right in {100 * test.floor:.1f} %."
    return told


def _above(arm: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]], test: Test) -> str:
    seeds = sorted(arm.keys() & baseline.keys())
    if not seeds or arm is baseline:
        return ""
    best, others = (
        _ranks({seed: each[seed] for seed in seeds}, len(test.questions)) == 1
        for each in (arm, baseline)
    )
    (own, counts), (other, _) = _by_source(best, test), _by_source(others, test)
    return _percent(difference(own, other, counts), sign="+")


def _ranks(by_seed: dict[int, dict[str, Any]], num_questions: int) -> np.ndarray:
    """Return (S, Q)."""
    return np.stack(
        [from_text(by_seed[seed]["ranks"], num_questions)[:, 0] for seed in sorted(by_seed)]
    )


def _by_source(outcomes: np.ndarray, test: Test) -> tuple[np.ndarray, np.ndarray]:
    """Return sums and counts (S, sources) of outcomes (S, Q)."""
    names, sources = np.unique([each.source for each in test.questions], return_inverse=True)
    sums = np.stack([np.bincount(sources, each, len(names)) for each in outcomes.astype(float)])
    counts = np.bincount(sources, minlength=len(names))
    return sums, np.broadcast_to(counts, sums.shape)


def _percent(interval: Interval, *, sign: str = "") -> str:
    interval = interval.within(-1 if sign else 0, 1)
    bounds = " … ".join(f"{100 * each:{sign}.1f}" for each in (interval.lower, interval.upper))
    return f"{100 * interval.value:{sign}.1f} [{bounds}]"
