"""`memstore serve`: light to import, plain about what is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from memstore.errors import ConfigError, MissingDependencyError, NotFoundError
from server import cli

HEAVY = {"fastapi", "grpc", "numpy", "pydantic", "torch", "uvicorn"}


def test_registering_the_command_imports_nothing_heavy():
    """Every `memstore --help` pays for it."""
    code = (
        "import sys, typer, server.cli; server.cli.register(typer.Typer());"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_is_registered_with_its_name():
    """The entry point hands over the application."""
    app = typer.Typer()
    cli.register(app)
    assert [command.callback for command in app.registered_commands] == [cli.serve]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    """Whoever installed the library alone learns what to install."""
    monkeypatch.setitem(sys.modules, "server.app", None)
    with pytest.raises(MissingDependencyError, match=r"memstore\[server\]"):
        cli.serve(store="s")


def test_a_store_that_is_not_there_and_an_exposed_port_are_refused(tmp_path: Path):
    """The errors that `memstore` prints."""
    with pytest.raises(NotFoundError, match="no such folder"):
        cli.serve(store=str(tmp_path / "absent"), grpc="127.0.0.1:0", http="127.0.0.1:0")
    with pytest.raises(ConfigError, match="--insecure"):
        cli.serve(store=str(tmp_path), grpc="0.0.0.0:0", http="127.0.0.1:0")
