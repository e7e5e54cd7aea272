"""Progress of a long command on stderr: a bar with rate and ETA on a terminal, elsewhere a line
every 30 s.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_S = 30.0

_Result = TypeVar("_Result")


class ProgressDisplay:
    """Shows one phase after another; `quiet` shows nothing.

    Args:
        quiet: no output at all.
        clock: seconds; for tests.
        terminal: force a bar or lines; None: a bar if stderr is a terminal.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
        terminal: bool | None = None,
    ) -> None:
        self._quiet, self._clock = quiet, clock
        self._console = Console(stderr=True, highlight=False)
        self._terminal = self._console.is_terminal if terminal is None else terminal
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._phase, self._started, self._last_line = "", 0.0, 0.0

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._terminal and not self._quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop showing."""
        if self._bar is not None:
            self._bar.stop()

    def follow(self, work: Generator[tuple[str, int, int], None, _Result]) -> _Result:
        """Run a generator of (phase, done, total), showing each; return what it returns."""
        while True:
            try:
                self.update(*next(work))
            except StopIteration as end:
                result: _Result = end.value
                return result

    def say(self, text: str) -> None:
        """Print one line."""
        if not self._quiet:
            self._console.print(text, markup=False, soft_wrap=True)
            sys.stderr.flush()

    def update(self, phase: str, done: float, total: float, rate: str = "") -> None:
        """Show that `done` of `total` units of a phase are done; the unit is the phase's last word.

        A phase begins with its first update, which best has `done` 0; `rate` replaces units a
        second.
        """
        now = self._clock()
        if phase != self._phase:
            self._begin(phase, total, now)
        passed = now - self._started
        if not rate and done and passed:
            rate = f"{_short(done / passed)} {self._unit}/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, rate=rate)
        elif not self._quiet and (now - self._last_line >= _LINE_EVERY_S or done >= total):
            self._last_line = now
            left = f"about {passed * (total - done) / done:,.0f} s left" if 0 < done < total else ""
            facts = [f"{phase}: {done:,.0f} of {total:,.0f}", rate, left]
            self.say(", ".join(filter(None, facts)))

    @property
    def _unit(self) -> str:
        return self._phase.rsplit(" ", 1)[-1]

    def _begin(self, phase: str, total: float, now: float) -> None:
        self._phase, self._started, self._last_line = phase, now, now
        if self._bar is not None:
            self._task = self._bar.add_task(phase, total=total, rate="")


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"
