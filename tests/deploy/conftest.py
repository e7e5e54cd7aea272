"""Reads what is deployed: Dockerfiles as instructions, YAML as values, commands as the real CLI."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from memstore.cli.main import build_app

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
_VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")

Parameters = dict[str, Any]
ParseCommand = Callable[[str, Sequence[str]], Parameters]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def load_yaml() -> Callable[..., Any]:
    """Read a YAML file of deploy/, checked by a schema, its variables at their defaults."""

    def load(name: str, schema: str) -> Any:
        text = (ROOT / "deploy" / name).read_text()
        value = yaml.safe_load(_VARIABLE.sub(r"\1", text))
        rules = json.loads((SCHEMAS / schema).read_text())
        jsonschema.Draft202012Validator.check_schema(rules)
        jsonschema.Draft202012Validator(rules).validate(value)
        return value

    return load


@pytest.fixture(scope="session")
def parse_command() -> ParseCommand:
    """Give arguments to a command of the real CLI, without running it; return its parameters."""
    group: Any = typer.main.get_command(build_app())

    def parse(name: str, arguments: Sequence[str]) -> Parameters:
        parameters: Parameters = group.commands[name].make_context(name, list(arguments)).params
        return parameters

    return parse
