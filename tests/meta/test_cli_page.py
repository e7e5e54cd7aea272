"""docs/cli.md, and what it says of the commands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from memstore.cli.main import run


def test_the_page_is_what_the_commands_say(root: Path) -> None:
    """docs/cli.md; `python docs/generate_cli.py` writes it."""
    assert (root / "docs/cli.md").read_text() == runpy.run_path(str(root / "docs/generate_cli.py"))[
        "page"
    ]()


def test_every_option_of_a_help_text_is_on_the_page(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Command by command, against the help that a user reads."""
    sections = (root / "docs/cli.md").read_text().split("\n## memstore ")[1:]

    assert sections
    for section in sections:
        command, _, body = section.partition("\n")
        assert run([*command.split(), "--help"]) == 0
        shown = set(re.findall(r"^\s+(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
        assert shown - {"--help"} == set(re.findall(r"^\| `(--[a-z-]+)`", body, re.MULTILINE))
