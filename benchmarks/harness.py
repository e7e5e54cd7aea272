"""Gates first, then interleaved timing; figures with their spread, and the tables they stand in.

Does not: know any benchmark, write files or read the clock of the wall.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Timings = Mapping[str, np.ndarray]
"""Name → (rounds, calls) float64 seconds."""


class GateError(Exception):
    """What is about to be timed does not give the right answer; nothing was timed."""


class DataMissingError(Exception):
    """The benchmark needs a data set that is not there."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value and how far it moved between rounds.

    Attributes:
        value: the median over rounds, or a percentile over all calls.
        low, high: the least and the greatest value of a single round.
        unit: such as "ms" or "tokens/s"; empty for a ratio.
        rounds: how many rounds stand behind it; 1 means that there is no spread to speak of.
    """

    value: float
    low: float
    high: float
    unit: str
    rounds: int


Cell = str | int | float | Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under a title; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a benchmark found.

    Attributes:
        gates: what was checked before anything was timed.
        settings: sizes and seeds that the figures depend on.
        notes: what a reader of the tables must know.
    """

    gates: Sequence[str]
    settings: Mapping[str, Any]
    tables: Sequence[Table]
    notes: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every benchmark is given.

    Attributes:
        quick: sizes that only show that the code runs; the figures mean nothing.
        data: folder of the evaluation data, if the user named one.
        work: an empty folder that is deleted afterwards.
        files: folder for what a benchmark leaves beside its JSON; git ignores it.
        seed: of every random choice.
    """

    quick: bool
    data: Path | None
    work: Path
    files: Path
    seed: int = 0


def check(gates: Mapping[str, Callable[[], bool]]) -> list[str]:
    """Run gates in order and return their names.

    Raises:
        GateError: at the first that does not hold.
    """
    for name, holds in gates.items():
        if not holds():
            raise GateError(f"gate failed, nothing was timed: {name}")
    return list(gates)


def measure(
    functions: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    calls: int = 1,
    warmups: int = 1,
    timer: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Time functions in turns, so that what disturbs the machine disturbs all of them.

    In each turn every function is called once, in an order drawn afresh: none always follows the
    same one, whose traces are in the caches. The orders are the same each time.

    Args:
        functions: called with the number of the turn, from 0; the warm-up is given turn 0 too.
        rounds: how many rounds; the spread is taken between them.
        calls: turns in a round.
        warmups: turns before the first one that counts.
        timer: a clock in seconds.

    Returns:
        (rounds, calls) seconds for each function.
    """
    for _ in range(warmups):
        for function in functions.values():
            function(0)
    order = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds * calls):
        for name in order.permutation(list(functions)):
            began = timer()
            functions[name](turn)
            seconds[name].append(timer() - began)
    return {name: np.array(taken).reshape(rounds, calls) for name, taken in seconds.items()}


def spread(values: Sequence[float] | np.ndarray, unit: str) -> Figure:
    """Return the median of one value a round, with the least and the greatest."""
    array = np.asarray(values, dtype=np.float64)
    return Figure(float(np.median(array)), float(array.min()), float(array.max()), unit, array.size)


def percentile(seconds: np.ndarray, q: float) -> Figure:
    """Return a percentile over all calls, in milliseconds, with that of the best and worst round.

    Args:
        seconds: (rounds, calls).
        q: 0 to 100.
    """
    each = 1e3 * np.percentile(seconds, q, axis=1)
    overall = 1e3 * float(np.percentile(seconds, q))
    return Figure(overall, float(each.min()), float(each.max()), "ms", len(seconds))


def rate(seconds: np.ndarray, amount: float, unit: str) -> Figure:
    """Return `amount` done in each call, per second, by round."""
    return spread(amount * seconds.shape[1] / seconds.sum(axis=1), unit)


def quotient(numerator: np.ndarray, denominator: np.ndarray) -> Figure:
    """Return the ratio of two functions' times, (rounds, calls) each, taken round by round."""
    return spread(numerator.sum(axis=1) / denominator.sum(axis=1), "")


def latency_row(name: str, seconds: np.ndarray) -> tuple[Cell, ...]:
    """Return name, p50 and p99 of calls as a row."""
    return (name, percentile(seconds, 50), percentile(seconds, 99))
