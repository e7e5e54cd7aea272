"""What a part of the benchmark finds, and functions timed by the work that they do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.harness import Figure, Table, Timings, measure


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to be timed.

    Attributes:
        call: is given the number of the turn.
        amount: the work of one call: tokens, floating-point operations or bytes.
    """

    call: Callable[[int], object]
    amount: float


CEILING = "ceiling: "


@dataclass(frozen=True, slots=True)
class Bar:
    """A speed in the plot: `figure` of `label` on `data`, in the plot's `panel`.

    A label that starts with `CEILING` is a line, not a bar.
    """

    panel: str
    label: str
    data: str
    figure: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one part of the benchmark found.

    Attributes:
        targets: name of the target → data → what was reached.
    """

    gates: Sequence[str]
    tables: Sequence[Table]
    targets: Mapping[str, Mapping[str, Figure]]
    bars: Sequence[Bar] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def repeated(subject: Subject, times: int) -> Subject:
    """Return a subject that does its work some times over, each as if in a turn of its own."""

    def call(turn: int) -> None:
        for i in range(times):
            subject.call(times * turn + i)

    return Subject(call, times * subject.amount)


def time_each(
    subjects: Mapping[str, Subject],
    *,
    rounds: int,
    pause_s: float,
    warmups: int = 1,
    timer: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> Timings:
    """Time subjects in turns.

    Args:
        subjects: by name.
        rounds: how many turns; each is a round.
        pause_s: slept before every call, and not counted: threads of OpenBLAS and OpenMP wait for
            more work for some 25 ms by keeping a core busy, which the next call would be short of.
        warmups: turns that do not count.
        timer: a clock in seconds.
        sleep: lets seconds pass.

    Returns:
        Name → (rounds, 1) seconds for one unit of its work.
    """
    paused_s = 0.0

    def after_pause(call: Callable[[int], object]) -> Callable[[int], object]:
        def paused(turn: int) -> object:
            nonlocal paused_s
            began = timer()
            sleep(pause_s)
            paused_s += timer() - began
            return call(turn)

        return paused

    calls = {name: after_pause(subject.call) for name, subject in subjects.items()}
    seconds = measure(calls, rounds=rounds, warmups=warmups, timer=lambda: timer() - paused_s)
    return {name: taken / subjects[name].amount for name, taken in seconds.items()}


def fastest(seconds: Timings, names: Iterable[str]) -> str:
    """Return which of the names takes the least time."""
    return min(names, key=lambda name: float(seconds[name].sum()))


def least(figures: Iterable[Figure]) -> Figure:
    """Return the smallest figure."""
    return min(figures, key=lambda figure: figure.value)


def once(value: float, unit: str = "") -> Figure:
    """Return a figure that was taken once."""
    return Figure(value, value, value, unit, 1)
