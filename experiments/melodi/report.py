"""The tables of the results, and which of the targets they reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.melodi.arms import (
    BLOCK_RECURRENT,
    LONGER,
    MELODI,
    MEMORIZING,
    NO_QUEUE,
    RATES,
    SMALL,
    TRANSFORMER_XL,
    UNBRANCHED,
    ZEROED,
    Task,
    arms,
    joint,
    post_hoc,
)
from experiments.melodi.statistics import perplexity, relative_change
from experiments.results import table
from experiments.statistics import Interval, from_text, mean

_LOSS_ALLOWED = 0.01
_RECALLED, _NOT_RECALLED = 0.8, 0.2
_FAR = 16

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """An arm's rows by seed."""

    rows: Mapping[int, Row]

    @property
    def first(self) -> Row:
        """One of them, for what does not depend on the seed."""
        return next(iter(self.rows.values()))

    def paper_floats(self) -> int:
        """Return the floats that it keeps, as the paper counts them."""
        floats: int = self.first["memory_floats"]["paper"]
        return floats

    def losses(self, seeds: Sequence[int]) -> np.ndarray:
        """Return (S, N, P): by seed, document and position."""
        return np.stack([_array(self.rows[seed], "losses") for seed in seeds])

    def counts(self) -> np.ndarray:
        """Return (N, P): tokens by document and position."""
        return _array(self.first, "counts").astype(np.int64)


def report(rows: Sequence[Row]) -> str:
    """Return the tables of what has been run, and the targets that can be judged by them."""
    language, recall = _by_arm(rows, "language"), _by_arm(rows, "recall")
    if not language and not recall:
        return "Nothing has been run yet."
    parts = []
    if language:
        plain = {name: arm for name, arm in language.items() if arms("language")[name].rate == 1}
        parts += [_budget(language), _positions(plain)]
        if MELODI in language:
            parts.append(_queue(language))
    if recall:
        parts.append(_recall(recall))
    return "\n\n".join([*parts, _targets(language, recall)])


def change(arm: Found, baseline: Found, column: int | None = None) -> Interval:
    """Return by what share an arm's perplexity is above a baseline's, over the seeds of both.

    Args:
        arm: compared.
        baseline: with it, of which a seed or more was run for both.
        column: of the positions; None: all of them.
    """
    seeds = sorted(arm.rows.keys() & baseline.rows.keys())
    counts = _part(arm.counts(), column)
    own, other = (_part(each.losses(seeds), column) for each in (arm, baseline))
    return relative_change(own, other, counts)


def _budget(found: Mapping[str, Found]) -> str:
    columns = [
        "arm", "weights", "memory, paper's count", "all as embeddings", "bytes",
        "codec's bytes, once", "perplexity",
        f"against {TRANSFORMER_XL}", f"against {MEMORIZING}", "seeds",
    ]  # fmt: skip
    lines = []
    for name, arm in found.items():
        made = arms("language")[name]
        if made.is_zeroed or (made.start and made.learns):
            continue  # of another budget
        row, floats = arm.first, arm.first["memory_floats"]
        lines.append(
            [
                name,
                f"{row['weights']:,}",
                f"{floats['paper']:,}",
                f"{floats['embeddings']:,}",
                f"{row['memory_bytes']:,}",
                f"{row['codec_bytes']:,}" if "codec_bytes" in row else "",
                _figure(perplexity(arm.losses(sorted(arm.rows)).sum(axis=2), _part(arm.counts()))),
                *(_against(name, found, other) for other in (TRANSFORMER_XL, MEMORIZING)),
                str(len(arm.rows)),
            ]
        )
    return "**Perplexity of a token against memory**\n\n" + table(columns, lines)


def _positions(found: Mapping[str, Found]) -> str:
    counts = next(iter(found.values())).counts()
    numbers = [number for number in range(counts.shape[1]) if counts[:, number].any()]
    lines = []
    for name, arm in found.items():
        losses = arm.losses(sorted(arm.rows))
        cells = [perplexity(losses[..., each], counts[:, each]).value for each in numbers]
        lines.append([name, *(f"{each:.3f}" for each in cells)])
    columns = ["arm", *(f"window {windows_of(each)}" for each in numbers)]
    documents = [str((counts[:, each] > 0).sum()) for each in numbers]
    told = "**Perplexity by position in the document**\n\n" + table(
        columns, [["documents", *documents], *lines]
    )
    if TRANSFORMER_XL not in found:
        return told
    changes = [
        [name, *(_percent(change(arm, found[TRANSFORMER_XL], each)) for each in numbers)]
        for name, arm in found.items()
        if name != TRANSFORMER_XL and arm.rows.keys() & found[TRANSFORMER_XL].rows.keys()
    ]
    return f"{told}\n\n**The same against {TRANSFORMER_XL}**\n\n" + table(columns, changes)


def _queue(found: Mapping[str, Found]) -> str:
    columns = ["arm", "bytes", "error of entries", "against", "perplexity changes by", "seeds"]
    against = {ZEROED: MELODI} | {post_hoc(rate): MELODI for rate in RATES}
    against |= {LONGER: MELODI} | {joint(rate): LONGER for rate in RATES}
    ablated = [name for name, arm in arms("language").items() if arm.ablation]
    against |= dict.fromkeys([NO_QUEUE, UNBRANCHED, *ablated], MELODI)
    lines = []
    for name, other in against.items():
        if _are_compared(found, name, other):
            row = found[name].first
            errors = [each["error"] for each in found[name].rows.values() if "error" in each]
            error = f"{np.mean(errors):.3f}" if errors else ""
            cost = _percent(change(found[name], found[other]))
            seeds = str(len(found[name].rows))
            lines.append([name, f"{row['memory_bytes']:,}", error, other, cost, seeds])
    return "**What is made of the queue**\n\n" + table(columns, lines)


def _recall(found: Mapping[str, Found]) -> str:
    told = {
        "right": "Associative recall: a pair in every window",
        "passkeys": "Passkey: one pair in the first window, and fillers",
    }
    return "\n\n".join(
        f"**{title}; share of answers that are right, by windows back**\n\n" + _shares(found, kind)
        for kind, title in told.items()
    )


def _shares(found: Mapping[str, Found], kind: str) -> str:
    distances = list(next(iter(found.values())).first[kind])
    lines = [
        [name, *(percentage(_recalled(arm, kind, each)) for each in distances), str(len(arm.rows))]
        for name, arm in found.items()
    ]
    return table(["arm", *(f"{each} back" for each in distances), "seeds"], lines)


def _targets(language: Mapping[str, Found], recall: Mapping[str, Found]) -> str:
    lines = _language_targets(language) + _recall_targets(recall)
    return "**Targets**\n\n" + "\n".join(lines or ["- none can be judged yet"])


def _language_targets(found: Mapping[str, Found]) -> list[str]:
    lines = []
    budgets = (
        (MELODI, MEMORIZING, 1 / 5),
        (SMALL, TRANSFORMER_XL, 1.0),
        (NO_QUEUE, TRANSFORMER_XL, 1.0),
    )
    for name, other, limit in budgets:
        if _are_compared(found, name, other):
            share = found[name].paper_floats() / found[other].paper_floats()
            told = f"{name} keeps {share:.2f} of the memory of {other}, at most {limit:.2f} wanted"
            lines.append(_line(told, share <= limit if limit < 1 else share < 1))
            worse = change(found[name], found[other])
            lines.append(_judge(f"{name}'s perplexity is not above that of {other}", worse, 0.0))
    for name, other in ((post_hoc(8), MELODI), (joint(8), LONGER)):
        if _are_compared(found, name, other):
            cost = change(found[name], found[other])
            lines.append(_judge(f"{name} costs at most 1 % to {other}", cost, _LOSS_ALLOWED))
    gains = {
        ZEROED: "the queue is used: with zeros in it perplexity is higher",
        NO_QUEUE: "the queue is worth having: trained without one perplexity is higher",
        UNBRANCHED: "branching lowers perplexity at equal weights",
    }
    for other, told in gains.items():
        if _are_compared(found, MELODI, other):
            lines.append(_judge(told, change(found[MELODI], found[other]), 0.0))
    if _are_compared(found, MELODI, TRANSFORMER_XL):
        lines.append(_grows(found[MELODI], found[TRANSFORMER_XL]))
    return lines


def _recall_targets(found: Mapping[str, Found]) -> list[str]:
    lines = []
    for name in (MELODI, MEMORIZING, ZEROED, NO_QUEUE, TRANSFORMER_XL, BLOCK_RECURRENT):
        if name not in found:
            continue
        share = _recalled(found[name], "right", str(_FAR))
        told = f"{name} recalls {percentage(share)} of what was said {_FAR} windows before"
        if name in (MELODI, MEMORIZING):
            wanted, holds = f"at least {_RECALLED:.0%}", share.lower >= _RECALLED
        else:
            wanted, holds = f"at most {_NOT_RECALLED:.0%}", share.upper <= _NOT_RECALLED
        lines.append(_line(f"{told}, {wanted} expected", holds))
    return lines


def _are_compared(found: Mapping[str, Found], name: str, other: str) -> bool:
    """Return whether a seed of both was run."""
    return name in found and other in found and bool(found[name].rows.keys() & found[other].rows)


def _grows(arm: Found, baseline: Found) -> str:
    """Judge whether the gain is larger past the first segment than in the first window."""
    seeds = sorted(arm.rows.keys() & baseline.rows.keys())
    counts, own, other = arm.counts(), arm.losses(seeds), baseline.losses(seeds)
    first_far = 4  # windows 8 and on: the second segment and all after it
    near, far = (
        relative_change(
            own[..., columns].sum(axis=2),
            other[..., columns].sum(axis=2),
            counts[:, columns].sum(axis=1),
        )
        for columns in (slice(0, 1), slice(first_far, None))
    )
    told = (
        f"the gain on {TRANSFORMER_XL} grows with position: {_percent(near)} in window 0, "
        f"{_percent(far)} from window 8 on"
    )
    return _line(told, far.upper < near.value)


def _judge(text: str, found: Interval, limit: float) -> str:
    """Judge that a change is at most a limit, where the interval allows it."""
    verdict = "**no**"
    if found.upper <= limit:
        verdict = "yes"
    elif found.lower <= limit:
        verdict = "not told apart"
    return f"- {text}: {_percent(found)}: {verdict}"


def _line(text: str, holds: bool) -> str:
    return f"- {text}: {'yes' if holds else '**no**'}"


def _against(name: str, found: Mapping[str, Found], other: str) -> str:
    is_told = name != other and _are_compared(found, name, other)
    return _percent(change(found[name], found[other])) if is_told else ""


def _by_arm(rows: Sequence[Row], task: Task) -> dict[str, Found]:
    by_arm = {}
    for name in arms(task):
        mine = [row for row in rows if row["task"] == task and row["arm"] == name]
        if mine:
            by_arm[name] = Found({row["seed"]: row for row in mine})
    return by_arm


def _recalled(arm: Found, kind: str, distance: str) -> Interval:
    """Return the share of right answers, over seeds and streams."""
    by_seed = np.array([row[kind][distance] for row in arm.rows.values()])  # (S, 2, B)
    return mean(by_seed[:, 0].astype(np.float64), by_seed[:, 1])


def _array(row: Row, name: str) -> np.ndarray:
    return from_text(row[name], row["num_documents"])


def _part(array: np.ndarray, column: int | None = None) -> np.ndarray:
    part: np.ndarray = array.sum(axis=-1) if column is None else array[..., column]
    return part


def _figure(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.lower:.3f} … {interval.upper:.3f}]"


def percentage(interval: Interval) -> str:
    """Return a share and its interval as percentages."""
    share = interval.within(0, 1)
    value, lower, upper = (f"{100 * each:.1f}" for each in (share.value, share.lower, share.upper))
    return f"{value} % [{lower} … {upper}]"


def _percent(interval: Interval) -> str:
    return (
        f"{100 * interval.value:+.2f} % [{100 * interval.lower:+.2f} … {100 * interval.upper:+.2f}]"
    )


def windows_of(column: int) -> str:
    """Return the windows of a column of `encoder_jobs.melodi_scoring.Losses`."""
    first, last = (1 << column) >> 1, (1 << column) - 1
    return f"{first}" if first == last else f"{first}-{last}"
