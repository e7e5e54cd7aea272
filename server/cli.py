"""The `memstore serve` command. Import-light: the server's packages are imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memstore.errors import MissingDependencyError


def register(app: typer.Typer) -> None:
    """Add `serve` to the `memstore` command."""
    app.command()(serve)


def serve(
    store: Annotated[str | None, typer.Option(help="Folder of the store.")] = None,
    sessions: Annotated[
        str | None, typer.Option(help="Folder of the sessions [default: none are kept].")
    ] = None,
    session_model: Annotated[
        Path | None, typer.Option(help="Folder of the model that reads and writes sessions.")
    ] = None,
    session_codec: Annotated[
        Path | None,
        typer.Option(help="Folder of the codec that the queues of sessions are kept in."),
    ] = None,
    grpc: Annotated[
        str | None, typer.Option(help="HOST:PORT of gRPC [default: 127.0.0.1:7777].")
    ] = None,
    http: Annotated[
        str | None, typer.Option(help="HOST:PORT of HTTP [default: 127.0.0.1:7778].")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the bearer token that callers must show; or MEMSTORE_TOKEN."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines call without a token.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Threads for CPU work [default: one a core].")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with any of the server's settings.")
    ] = None,
) -> None:
    """Serve a store over gRPC and HTTP until SIGTERM; new snapshots are picked up by themselves."""
    try:
        import asyncio

        from server.app import serve as run
        from server.settings import load_settings
    except ModuleNotFoundError as err:
        raise MissingDependencyError(
            f"memstore serve needs {err.name!r}; install it with: pip install 'memstore[server]'"
        ) from err
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = load_settings(
        config,
        store=store,
        sessions=sessions,
        session_model=session_model,
        session_codec=session_codec,
        grpc=grpc,
        http=http,
        token_file=token_file,
        insecure=insecure or None,
        workers=workers,
    )
    asyncio.run(run(settings))
