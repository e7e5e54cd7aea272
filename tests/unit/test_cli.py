"""The command line's exit codes, and what it hands on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memstore.cli import main


def _stops_with(code: object) -> Callable[[], Callable[[list[str]], None]]:
    def command(_arguments: list[str]) -> None:
        raise SystemExit(code)

    return lambda: command


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (3, 3), ("no such thing", 1)])
def test_an_exit_by_a_command_keeps_its_meaning(
    code: object, expected: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in Python itself, a text is a failure and goes to stderr."""
    monkeypatch.setattr(main, "build_app", _stops_with(code))
    assert main.run([]) == expected
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (f"{code}\n" if isinstance(code, str) else "")
