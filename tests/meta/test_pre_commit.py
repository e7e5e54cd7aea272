"""The hooks that run before a commit and a push."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="module")
def hooks(root: Path) -> dict[str, dict[str, Any]]:
    """The hooks by id."""
    config = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())
    return {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}


def test_hooks_run_the_tools_of_the_dev_extra(hooks: dict[str, dict[str, Any]]) -> None:
    """Each is this machine's own command: `make`, or one that stands beside the interpreter."""
    tools = {shlex.split(hook["entry"])[0] for hook in hooks.values()} - {"make"}

    assert {hook["language"] for hook in hooks.values()} == {"system"}
    assert [tool for tool in tools if not Path(sys.executable).with_name(tool).exists()] == []


def test_the_files_and_targets_that_hooks_name_exist(
    hooks: dict[str, dict[str, Any]], root: Path
) -> None:
    """A renamed test or target would leave a hook that fails for everybody."""
    targets = re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE)
    words = [word for hook in hooks.values() for word in shlex.split(hook["entry"])]

    assert [word for word in words if word.endswith(".py") and not (root / word).is_file()] == []
    assert shlex.split(hooks["check"]["entry"])[1] in targets
