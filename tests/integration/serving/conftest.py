"""A small real store, and real servers on free ports in a thread of this process."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memstore import Client, Store, open_store
from memstore.sessions import SessionStore
from server.app import Server
from server.settings import load_settings
from tests.integration.serving.material import NUM_PASSAGES, WordEncoder, make_passages


@pytest.fixture(scope="session")
def written_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a collection that pins `WordEncoder`; not to be changed."""
    folder = tmp_path_factory.mktemp("written") / "store"
    encoder = WordEncoder()
    passages, memories = make_passages(NUM_PASSAGES)
    embeddings = encoder.embed([passage.text for passage in passages])
    open_store(folder, encoder=encoder).write(
        passages, memories, embeddings=embeddings, encoder_id=encoder.identity.id
    )
    return folder


@pytest.fixture
def store_dir(written_store: Path, tmp_path: Path) -> Path:
    """A copy of the written store for one test."""
    return Path(shutil.copytree(written_store, tmp_path / "store"))


@pytest.fixture
def store(store_dir: Path) -> Store:
    """The store, embedded."""
    return open_store(store_dir, encoder=WordEncoder())


class Running:
    """A server in a thread with an event loop of its own."""

    def __init__(
        self, store: Store, settings: dict[str, Any], sessions: SessionStore | None = None
    ) -> None:
        free = {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "drain_s": 0.0, "grace_s": 5.0}
        self.server = Server(store, load_settings(store="-", **{**free, **settings}), sessions)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    @property
    def grpc(self) -> str:
        """Address of the gRPC face."""
        return self.server.grpc_address

    @property
    def http(self) -> str:
        """Base URL of the HTTP face."""
        return f"http://{self.server.http_address}"

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._leaving = asyncio.Event()
        try:
            await self.server.start()
        except BaseException as err:
            self._failure = err
            return
        finally:
            self._started.set()
        await self._leaving.wait()
        await self.server.stop()

    def stop(self) -> None:
        """Drain and stop; nothing happens the second time."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._leaving.set)
            self._thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """Start servers: `serve(store, sessions=None, **settings)`; all are stopped after the test."""
    running: list[Running] = []

    def start(store: Store, sessions: SessionStore | None = None, **settings: Any) -> Running:
        running.append(Running(store, settings, sessions))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Make clients with a codec cache of the test's own: `connect(server, **options)`."""
    clients: list[Client] = []

    def make(server: Running | str, **options: Any) -> Client:
        address = server if isinstance(server, str) else server.grpc
        clients.append(Client(address, **{"cache_dir": tmp_path / "codecs", **options}))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
