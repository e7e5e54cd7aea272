"""Progress on stderr, with a clock that the test turns."""

from __future__ import annotations

import pytest

from encoder_jobs.progress import ProgressDisplay


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at rest."""
    return Clock()


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_line_every_thirty_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """With what is done, the rate and the time left; nothing in between, and one at the end."""
    with ProgressDisplay(clock=clock, terminal=False) as display:
        for second in range(101):
            clock.now = 1000.0 + second
            display.update("encoding, text bytes", 10 * second, 1000)

    assert _lines(capsys) == [
        "encoding, text bytes: 300 of 1,000, 10 bytes/s, about 70 s left",
        "encoding, text bytes: 600 of 1,000, 10 bytes/s, about 40 s left",
        "encoding, text bytes: 900 of 1,000, 10 bytes/s, about 10 s left",
        "encoding, text bytes: 1,000 of 1,000, 10 bytes/s",
    ]


def test_a_rate_that_is_given_stands_instead(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as tokens where bytes are counted."""
    with ProgressDisplay(clock=clock, terminal=False) as display:
        display.update("encoding, text bytes", 0, 10)
        clock.now += 31
        display.update("encoding, text bytes", 5, 10, "77 tokens/s")

    assert _lines(capsys) == ["encoding, text bytes: 5 of 10, 77 tokens/s, about 31 s left"]


def test_a_phase_counts_from_its_first_update(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time before it is not its own, and a first update at 0 says nothing yet."""
    with ProgressDisplay(clock=clock, terminal=False) as display:
        display.update("reading, bytes", 0, 4)
        clock.now += 20
        display.update("training, subspaces", 0, 8)
        clock.now += 20
        display.update("training, subspaces", 4, 8)
        clock.now += 20
        display.update("training, subspaces", 6, 8)

    assert _lines(capsys) == ["training, subspaces: 6 of 8, 0.15 subspaces/s, about 13 s left"]


def test_a_phase_that_is_whole_at_once_has_no_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """No time has passed to divide by."""
    with ProgressDisplay(clock=clock, terminal=False) as display:
        display.update("reading, bytes", 4, 4)

    assert _lines(capsys) == ["reading, bytes: 4 of 4"]


def test_quiet_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither lines nor a bar."""
    for terminal in (False, True):
        with ProgressDisplay(quiet=True, clock=clock, terminal=terminal) as display:
            display.say("hello")
            display.update("reading, bytes", 4, 4)

    assert _lines(capsys) == []


def test_a_terminal_gets_a_bar(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """With phase, count and rate; lines of `say` stand above it."""
    with ProgressDisplay(clock=clock, terminal=True) as display:
        display.say("job 1")
        display.update("reading, bytes", 0, 4)
        clock.now += 2
        display.update("reading, bytes", 4, 4)

    shown = capsys.readouterr().err
    assert "job 1" in shown
    assert "reading, bytes" in shown
    assert "4/4" in shown
    assert "2 bytes/s" in shown


def test_text_in_brackets_is_no_markup(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A file called `[bold]` is shown as it is, and a long line is not broken."""
    with ProgressDisplay(clock=clock, terminal=False) as display:
        display.say("[bold]" + "x" * 300)

    assert _lines(capsys) == ["[bold]" + "x" * 300]
