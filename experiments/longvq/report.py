"""The tables of the results, and in words what they do and do not tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from experiments.longvq.arms import BAND, FLOORS, FROZEN, LONGVQ, SPACE, TASKS, TWO, arms
from experiments.longvq.sizes import Size
from experiments.results import table
from experiments.statistics import Interval, difference, from_text, mean

_TITLES = {
    "listops": "ListOps",
    "recall": "Associative recall (MQAR)",
    "copying": "Selective copying",
    "text": "Bytes of running text",
    "reviews": "Film reviews",
}
_ENOUGH_SEEDS, _ENOUGH_ITEMS = 3, 10_000
_SHOWN_BY = {
    BAND: "attention beyond the band",
    TWO: "more codes than two",
    FROZEN: "learning the codebook",
}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """An arm's rows by seed."""

    rows: Mapping[int, Row]

    @property
    def first(self) -> Row:
        """One of them, for what does not depend on the seed."""
        return next(iter(self.rows.values()))

    @property
    def seeds(self) -> set[int]:
        """Those that it was run under."""
        return set(self.rows)

    @cached_property
    def _outcomes(self) -> Mapping[int, tuple[np.ndarray, np.ndarray]]:
        return {
            seed: (
                from_text(row["sums"], row["num_items"]),
                from_text(row["counts"], row["num_items"]).astype(np.int64),
            )
            for seed, row in self.rows.items()
        }

    def outcomes(
        self, seeds: Sequence[int], group: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (S, N) sums and (S, N) counts, of one group or of all."""
        part = slice(None) if group is None else slice(group, group + 1)
        pairs = [self._outcomes[seed] for seed in seeds]
        sums, counts = (
            np.stack([pair[each][:, part].sum(axis=1) for pair in pairs]) for each in (0, 1)
        )
        return sums, counts


def report(rows: Sequence[Row], size: Size) -> str:
    """Return the tables of what has been run, and what they say."""
    parts = []
    for task in TASKS:
        mine = [row for row in rows if row["task"] == task]
        found = {
            name: Found(by_seed)
            for name in arms(size.num_codes)
            if (by_seed := {row["seed"]: row for row in mine if row["arm"] == name})
        }
        floors: Mapping[str, float] = next(
            (row["floors"] for row in mine if row["arm"] == FLOORS), {}
        )
        if found:
            margins = _margins(found)
            parts.append(f"## {_TITLES[task]}")
            parts.append(_table(found, margins, floors))
            parts.append(_words(found, margins, floors))
    return "\n\n".join(parts) or "Nothing has been run yet."


def against(arm: Found, baseline: Found) -> Interval:
    """Return by how much an arm's mean outcome is above a baseline's, over the seeds of both."""
    seeds = sorted(arm.seeds & baseline.seeds)
    (own, counts), (other, same) = (each.outcomes(seeds) for each in (arm, baseline))
    if not np.array_equal(counts, same):
        raise ValueError("rows: the two arms were not tested on the same items; run one again")
    return difference(own, other, counts)


def _margins(found: Mapping[str, Found]) -> dict[str, Interval]:
    """Return by how much each arm's mean outcome is above LongVQ's, where both have a seed."""
    if LONGVQ not in found:
        return {}
    longvq = found[LONGVQ]
    return {
        name: against(arm, longvq)
        for name, arm in found.items()
        if name != LONGVQ and arm.seeds & longvq.seeds
    }


def _table(
    found: Mapping[str, Found], margins: Mapping[str, Interval], floors: Mapping[str, float]
) -> str:
    first = next(iter(found.values())).first
    in_bits, groups = _in_bits(first), first["groups"] if len(first["groups"]) > 1 else []
    columns = [
        "arm", "weights", first["metric"], "over seeds", *groups, f"against {LONGVQ}",
        "codes in use", "minutes of training", "seeds",
    ]  # fmt: skip
    lines = [
        [f"*floor: {name}*", "", _value(value, in_bits)] + [""] * (len(columns) - 3)
        for name, value in floors.items()
    ]
    for name, arm in found.items():
        seeds = sorted(arm.seeds)
        values = [row["value"] for row in arm.rows.values()]
        parts = [mean(*arm.outcomes(seeds, group)) for group in range(len(groups))]
        codes = [each for row in arm.rows.values() for each in row["perplexity"]]
        lines.append(
            [
                name,
                f"{arm.first['num_weights']:,}",
                _figure(mean(*arm.outcomes(seeds)), in_bits),
                f"{_value(min(values), in_bits)} … {_value(max(values), in_bits)}",
                *(_figure(part, in_bits) for part in parts),
                _change(margins[name], in_bits) if name in margins else "",
                f"{np.mean(codes):.0f}" if codes else "",
                f"{np.mean([row['training_seconds'] for row in arm.rows.values()]) / 60:.1f}",
                str(len(seeds)),
            ]
        )
    return table(columns, lines)


def _words(
    found: Mapping[str, Found], margins: Mapping[str, Interval], floors: Mapping[str, float]
) -> str:
    in_bits = _in_bits(next(iter(found.values())).first)
    verdicts = {name: _verdict(margin, in_bits) for name, margin in margins.items()}
    lines = [*_compared(verdicts), _codebook(verdicts), _falsified(verdicts)]
    if LONGVQ in found and floors:
        lines.append(_above_floors(found[LONGVQ], floors, in_bits))
    lines += [_collapsed(found), _too_few(found)]
    return "\n".join(f"- {line}" for line in lines if line)


def _compared(verdicts: Mapping[str, int]) -> list[str]:
    """Say which arms are better or worse than LongVQ, and of which that cannot be said."""
    says = {
        1: f"Better than {LONGVQ}",
        -1: f"Worse than {LONGVQ}",
        0: f"Not told apart from {LONGVQ}, the margin being smaller than its error",
    }
    named = {each: [name for name, verdict in verdicts.items() if verdict == each] for each in says}
    return [f"{says[each]}: {', '.join(names)}." for each, names in named.items() if names]


def _codebook(verdicts: Mapping[str, int]) -> str:
    """Say whether seeing beyond the band, telling apart what is there, and learning to, gain."""
    says = {-1: "contributes", 0: "is not shown to contribute", 1: "does harm"}
    told = [
        f"{what} **{says[verdicts[name]]}** (against {name})"
        for name, what in _SHOWN_BY.items()
        if name in verdicts
    ]
    return "Here " + "; ".join(told) + "." if told else ""


def _falsified(verdicts: Mapping[str, int]) -> str:
    """Name the plain arms that are no worse than LongVQ: the falsifier set before."""
    level = [name for name in (SPACE, BAND) if verdicts.get(name, -1) >= 0]
    if not level:
        return ""
    return (
        f"{' and '.join(level)} within noise of {LONGVQ} or better: this task does not show that "
        "attention over codes adds to the state space."
    )


def _above_floors(arm: Found, floors: Mapping[str, float], in_bits: bool) -> str:
    """Say whether LongVQ does better than the best rule without a model."""
    best = (min if in_bits else max)(floors, key=lambda name: floors[name])
    reached = mean(*arm.outcomes(sorted(arm.seeds)))
    change = Interval(
        *(each - floors[best] for each in (reached.value, reached.lower, reached.upper))
    )
    says = {-1: "worse than", 0: "not told apart from", 1: "better than"}[_verdict(change, in_bits)]
    return f"{LONGVQ} is **{says}** the best floor, {best}: {_change(change, in_bits)}."


def _collapsed(found: Mapping[str, Found]) -> str:
    runs = [
        f"{name}, seed {seed}: layer and head {row['collapsed']}"
        for name, arm in found.items()
        for seed, row in arm.rows.items()
        if row["collapsed"]
    ]
    return f"Collapsed codebooks: {'; '.join(runs)}." if runs else ""


def _too_few(found: Mapping[str, Found]) -> str:
    """Say where seeds or items are fewer than were wanted."""
    fewest = min(len(arm.seeds) for arm in found.values())
    arm = next(iter(found.values()))
    seeds = sorted(arm.seeds)
    tested = int((arm.outcomes(seeds)[1].sum(axis=0) > 0).sum())
    told = []
    if fewest < _ENOUGH_SEEDS:
        told.append(f"an arm has {fewest} seeds of {_ENOUGH_SEEDS}")
    if tested < _ENOUGH_ITEMS:
        told.append(f"{tested:,} items were tested, not {_ENOUGH_ITEMS:,}")
    return f"Fewer than wanted: {'; '.join(told)}." if told else ""


def _verdict(change: Interval, in_bits: bool) -> int:
    """Return 1 if a change is for the better, -1 if for the worse, 0 if its interval has both."""
    if change.lower <= 0 <= change.upper:
        return 0
    return 1 if (change.value > 0) != in_bits else -1


def _in_bits(row: Row) -> bool:
    return bool(row["metric"].startswith("bits"))


def _value(value: float, in_bits: bool) -> str:
    return f"{value:.3f}" if in_bits else f"{100 * value:.1f} %"


def _figure(interval: Interval, in_bits: bool) -> str:
    interval = interval if in_bits else interval.within(0, 1)
    bounds = [interval.value, interval.lower, interval.upper]
    value, lower, upper = (_value(each, in_bits).removesuffix(" %") for each in bounds)
    return f"{value}{'' if in_bits else ' %'} [{lower} … {upper}]"


def _change(change: Interval, in_bits: bool) -> str:
    scale, digits, unit = (1, 3, " bits") if in_bits else (100, 1, " points")
    bounds = [change.value, change.lower, change.upper]
    value, lower, upper = (f"{scale * each:+.{digits}f}" for each in bounds)
    return f"{value}{unit} [{lower} … {upper}]"
