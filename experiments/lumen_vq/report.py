"""The tables of the results: what each arm answers, and what it loses to uncompressed memories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.lumen_vq.arms import LUMEN, UNCOMPRESSED, arms
from experiments.lumen_vq.sizes import Size
from experiments.lumen_vq.statistics import from_text, relative_loss
from experiments.results import table
from experiments.statistics import Interval, difference

_COLUMNS = [
    "arm", "bytes", "with tables", "ratio", "EM", "over seeds", "one hop", "two hops",
    "loss to uncompressed", "memories' error", "codes in use", "seeds",
]  # fmt: skip
_PAIRS = [
    (f"{kind}joint {rate}x", f"{kind}post hoc {rate}x")
    for kind in ("", "token, ")
    for rate in (8, 16, 32, 64)
] + [
    ("joint 16x, K=4096", "joint 16x"),
    ("joint 64x, K=4096", "joint 64x"),
    ("joint 16x, commitment 0.25", "joint 16x"),
    ("joint 16x, no resets", "joint 16x"),
    ("token, joint 16x", "joint 16x"),
    ("joint 16x", "joint 16x, encoder frozen"),
    ("uncompressed", "uncompressed, encoder frozen"),
]


def report(rows: Sequence[dict[str, Any]], size: Size) -> str:
    """Return the tables of what has been run."""
    by_arm = {
        name: found
        for name in arms(size.live_fractions)
        if (found := {row["seed"]: row for row in rows if row["arm"] == name})
    }
    if UNCOMPRESSED not in by_arm:
        return "Nothing to compare with yet: the arm without compression has not been run."
    full = 2 * size.shape.dim
    lines = [_line(name, found, by_arm[UNCOMPRESSED], full, size) for name, found in by_arm.items()]
    parts = [table(_COLUMNS, lines), _task(by_arm, size)]
    pairs = [(a, b) for a, b in _PAIRS if a in by_arm and b in by_arm]
    if pairs:
        cells = [[a, b, _points(by_arm[a], by_arm[b], size)] for a, b in pairs]
        parts.append(table(["arm", "against", "points of EM more"], cells))
    return "\n\n".join(parts)


def _line(
    name: str,
    found: dict[int, dict[str, Any]],
    baseline: dict[int, dict[str, Any]],
    full: int,
    size: Size,
) -> list[str]:
    rows = list(found.values())
    values = [row["value"] for row in rows]
    num_bytes = rows[0]["bytes_per_token"]
    is_coded = 0 < num_bytes < full
    perplexity = [row["perplexity"] for row in rows if "perplexity" in row]
    return [
        name,
        f"{num_bytes:g}",
        f"{rows[0]['bytes_with_tables']:.1f}" if is_coded else "",
        f"{full / num_bytes:.1f}" if num_bytes else "",
        f"{100 * np.mean(values):.2f}",
        f"{100 * min(values):.1f} … {100 * max(values):.1f}",
        *(f"{100 * np.mean([row[hops] for row in rows]):.1f}" for hops in ("one hop", "two hops")),
        "" if name == UNCOMPRESSED else _percent(_loss(found, baseline, size)),
        f"{np.mean([row['error'] for row in rows]):.3f}" if is_coded else "",
        f"{np.mean(perplexity):.0f}" if perplexity else "",
        str(len(rows)),
    ]


def _loss(
    arm: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]], size: Size
) -> Interval:
    seeds = sorted(arm.keys() & baseline.keys())
    return relative_loss(_right(arm, seeds, size), _right(baseline, seeds, size))


def _right(rows: dict[int, dict[str, Any]], seeds: list[int], size: Size) -> np.ndarray:
    return np.stack([from_text(rows[seed]["right"], size.num_test) for seed in seeds])


def _percent(loss: Interval) -> str:
    return f"{100 * loss.value:+.2f} % [{100 * loss.lower:+.2f} … {100 * loss.upper:+.2f}]"


def _points(arm: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]], size: Size) -> str:
    """Return by how much an arm has more EM than another: near 0 a ratio would say nothing."""
    seeds = sorted(arm.keys() & other.keys())
    first, second = (_right(rows, seeds, size).astype(np.float64) for rows in (arm, other))
    found = difference(first, second, np.ones(first.shape, np.int64))
    return f"{100 * found.value:+.1f} [{100 * found.lower:+.1f} … {100 * found.upper:+.1f}]"


def _task(by_arm: dict[str, dict[int, dict[str, Any]]], size: Size) -> str:
    """Say whether the task can tell codecs apart, by the rule that was set before."""
    uncompressed = float(np.mean([row["value"] for row in by_arm[UNCOMPRESSED].values()]))
    lines = [_check(f"uncompressed EM {100 * uncompressed:.1f} %", 0.6 <= uncompressed <= 0.9)]
    if "no passages" in by_arm:
        blind = float(np.mean([row["value"] for row in by_arm["no passages"].values()]))
        lines.append(_check(f"EM without passages {100 * blind:.1f} %", blind < 0.2))
    if "post hoc 64x" in by_arm:
        loss = _loss(by_arm["post hoc 64x"], by_arm[UNCOMPRESSED], size)
        lines.append(_check(f"post hoc at 64x loses {_percent(loss)}", loss.value >= 0.05))
    lines.append(_check(f"{size.num_test:,} questions", size.num_test >= 20_000))
    num_seeds = min(len(by_arm[name]) for name in (LUMEN, UNCOMPRESSED) if name in by_arm)
    lines.append(_check(f"{num_seeds} seeds", num_seeds >= 3))
    return "The task can tell codecs apart if all of this holds:\n\n" + "\n".join(lines)


def _check(text: str, holds: bool) -> str:
    return f"- {text}: {'yes' if holds else '**no**'}"
