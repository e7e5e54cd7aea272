"""Assembles the `memstore` command and turns errors into messages and exit codes.

Data goes to stdout, everything else to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4
conflict, 5 partial, 75 retry later. Commands import what they need when they run, so that help is
quick.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from importlib.metadata import entry_points
from typing import Annotated, NoReturn

import typer

from memstore import __version__
from memstore.cli import codec, collection, evaluate, query, session
from memstore.errors import MemstoreError

_INTERRUPTED = 130


def build_app() -> typer.Typer:
    """Return the command with everything that is installed."""
    app = typer.Typer(
        name="memstore",
        help="A compressed store of token memories for reader models.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback(invoke_without_command=True)
    def options(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and exit.")
        ] = False,
    ) -> None:
        if version:
            typer.echo(__version__)
            raise typer.Exit

    query.register(app)
    collection.register(app)
    codec.register(app)
    evaluate.register(app)
    session.register(app)
    for point in sorted(entry_points(group="memstore.commands"), key=lambda point: point.name):
        point.load()(app)
    return app


def main() -> NoReturn:
    """Run the command line and exit."""
    _raise_file_limit()
    sys.exit(run(sys.argv[1:]))


def _raise_file_limit() -> None:
    """Allow as many open files as the system does: a collection maps each shard that is read."""
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(arguments: list[str]) -> int:
    """Run one command; return its exit code."""
    try:
        build_app()(arguments)  # shows what is wrong with a command line by itself, and exits
    except MemstoreError as err:
        typer.echo(f"error: {err}", err=True)
        return err.exit_code
    except SystemExit as done:
        if done.code == _INTERRUPTED:
            typer.echo("interrupted; run the same command again to go on", err=True)
        if isinstance(done.code, str):
            typer.echo(done.code, err=True)
            return 1
        return done.code or 0
    return 0
