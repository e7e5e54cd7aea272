"""The composition root: one process, one event loop, a gRPC and an HTTP server on one store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import grpc
import grpc.aio
import uvicorn
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from memstore.client.messages import MAX_MESSAGE_BYTES
from memstore.errors import AddressInUseError
from memstore.service import Store, open_store
from memstore.sessions import SessionStore
from memstore.v1 import memory_service_pb2_grpc, session_service_pb2_grpc
from server.auth import Auth
from server.grpc_edge import GrpcEdge
from server.grpc_face import SERVICE, MemoryServicer
from server.http_face import Readiness, create_app
from server.metrics import Metrics
from server.session_grpc import SERVICE as SESSION_SERVICE
from server.session_grpc import SessionServicer
from server.sessions import Sessions, open_kept
from server.settings import Settings, split_address
from server.work import Workers

_log = logging.getLogger(__name__)

_EXPIRE_EVERY_S = 600.0
_GRPC_OPTIONS = [
    ("grpc.so_reuseport", 0),  # two servers on one port would share its callers between them
    ("grpc.max_receive_message_length", 2 * MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", 2 * MAX_MESSAGE_BYTES),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
]


class Server:
    """The two faces of one store.

    Args:
        store: answers.
        settings: where to listen, who may call, how much at once.
        sessions: answer too; None: this server keeps none.
    """

    def __init__(
        self, store: Store, settings: Settings, sessions: SessionStore | None = None
    ) -> None:
        self._store = store
        self._session_store = sessions
        self._sessions = Sessions(sessions)
        self._settings = settings
        self._auth = Auth(settings.bearer_token())
        self._metrics = Metrics()
        self._workers = Workers(settings.workers, settings.max_in_flight)
        self._readiness = Readiness()
        self._health = health_aio.HealthServicer()
        self._tasks: list[asyncio.Task[None]] = []
        self.grpc_address = ""
        self.http_address = ""

    async def start(self) -> None:
        """Listen, open the newest snapshots, and only then say that requests are welcome.

        Raises:
            AddressInUseError: if a port is in use.
        """
        await self._set_serving(health_pb2.HealthCheckResponse.NOT_SERVING)
        http_socket = _listen(self._settings.http)
        self.http_address = _with_port(self._settings.http, http_socket.getsockname()[1])
        self._grpc = self._grpc_server()
        try:
            port = self._grpc.add_insecure_port(self._settings.grpc)
        except RuntimeError as err:
            http_socket.close()
            await self._grpc.stop(None)
            raise _in_use("grpc", self._settings.grpc) from err
        self.grpc_address = _with_port(self._settings.grpc, port)
        await self._grpc.start()
        self._http = self._http_server()
        self._tasks = [
            asyncio.create_task(self._http.serve([http_socket])),
            asyncio.create_task(self._follow_snapshots()),
            asyncio.create_task(self._expire_sessions()),
        ]
        await asyncio.to_thread(
            _attempt, lambda: self._store.refresh(self._store.collection_names())
        )
        await self._set_serving(health_pb2.HealthCheckResponse.SERVING)
        self._readiness.is_ready = True

    async def stop(self) -> None:
        """Say that no more requests are welcome, let those in flight finish, and stop."""
        self._readiness.is_ready = False
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.drain_s)
        self._http.should_exit = True
        http, *endless = self._tasks
        for task in endless:
            task.cancel()
        await asyncio.gather(self._grpc.stop(self._settings.grace_s), http)
        await asyncio.to_thread(self._workers.close)

    async def _set_serving(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE, SESSION_SERVICE):
            await self._health.set(service, status)

    def _grpc_server(self) -> grpc.aio.Server:
        edge = GrpcEdge(self._auth, self._metrics)
        server = grpc.aio.server(interceptors=[edge], options=_GRPC_OPTIONS)
        servicer = MemoryServicer(
            self._store, self._workers, self._metrics, self._settings.max_write_bytes
        )
        memory_service_pb2_grpc.add_MemoryServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        session_servicer = SessionServicer(self._sessions, self._workers)
        session_service_pb2_grpc.add_SessionServiceServicer_to_server(session_servicer, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SERVICE, SESSION_SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server

    def _http_server(self) -> uvicorn.Server:
        app = create_app(
            self._store,
            self._workers,
            self._auth,
            self._metrics,
            self._readiness,
            self._sessions,
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=max(1, round(self._settings.grace_s)),
        )
        return _HttpServer(config)

    async def _follow_snapshots(self) -> None:
        """Open new snapshots before a request needs them."""
        while True:
            await asyncio.sleep(self._settings.poll_interval_s)
            await asyncio.to_thread(_attempt, self._store.refresh)

    async def _expire_sessions(self) -> None:
        """Remove sessions whose time has run out."""
        while self._session_store is not None:
            await asyncio.to_thread(_attempt, self._session_store.expire)
            await asyncio.sleep(_EXPIRE_EVERY_S)


class _HttpServer(uvicorn.Server):
    """uvicorn, with the signals left to the composition root."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _attempt(housekeeping: Callable[[], object]) -> None:
    """Open snapshots, or expire sessions; what fails is logged, and said again by the requests that
    meet it.
    """
    try:
        housekeeping()
    except Exception:
        _log.exception("not every snapshot can be opened, or not every session expired")


def _listen(address: str) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as err:
        raise _in_use("http", address) from err


def _in_use(face: str, address: str) -> AddressInUseError:
    return AddressInUseError(
        f"{face} {address}: the port cannot be bound; another program listens there, or the host "
        f"is not this machine's: stop it, or choose another with --{face} HOST:PORT",
        address=address,
    )


def _with_port(address: str, port: int) -> str:
    host, _, _ = address.rpartition(":")
    return f"{host}:{port}"


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal has its usual, abrupt effect.

    Raises:
        AddressInUseError: if a port is in use.
        ConfigError: if the address is open to others without a token.
        NotFoundError: if there is no store.
    """
    store = open_store(settings.store, create=False, is_followed=True)
    server = Server(store, settings, open_kept(settings))
    loop = asyncio.get_running_loop()
    leaving = asyncio.Event()

    def leave(signum: signal.Signals) -> None:
        loop.remove_signal_handler(signum)
        _log.info("%s: draining", signum.name)
        leaving.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, leave, signum)
    await server.start()
    addresses = server.grpc_address, server.http_address
    _log.info("serving %s: gRPC %s, HTTP %s", settings.store, *addresses)
    await leaving.wait()
    await server.stop()
    _log.info("drained")
