"""A server of sessions in a process of its own, which another process may kill."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection
from pathlib import Path

from memstore import open_store
from memstore.sessions import open_sessions
from server.app import Server
from server.settings import load_settings


def serve(folder: Path, model: Path, pipe: Connection) -> None:
    """Serve the sessions in a folder on free ports; send the gRPC address, and never return."""
    asyncio.run(_serve(folder, model, pipe))


async def _serve(folder: Path, model: Path, pipe: Connection) -> None:
    settings = load_settings(store="-", grpc="127.0.0.1:0", http="127.0.0.1:0")
    sessions = open_sessions(folder / "sessions", model)
    server = Server(open_store(folder / "store"), settings, sessions)
    await server.start()
    pipe.send(server.grpc_address)
    await asyncio.Event().wait()
