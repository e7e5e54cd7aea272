"""The verbs of a `SessionStore` over gRPC: `Client.sessions` and `AsyncClient.sessions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memstore.client import session_messages as messages
from memstore.client.connection import Caller
from memstore.client.failures import typed_errors
from memstore.sessions.values import Continuation, SessionHit, SessionInfo, SessionWindow
from memstore.v1 import session_service_pb2 as pb
from memstore.v1 import session_service_pb2_grpc


class SessionClient:
    """The sessions of a server; verbs, results and errors are those of `SessionStore`.

    Args:
        channel: to the server.
        caller: credential and deadlines.
        address: of the server, for errors.
    """

    def __init__(self, channel: Any, caller: Caller, address: str) -> None:
        self._stub: Any = session_service_pb2_grpc.SessionServiceStub(channel)  # type: ignore[no-untyped-call]
        self._caller, self._address = caller, address

    def create(self, session_id: str | None = None, *, ttl_s: float | None = None) -> SessionInfo:
        """Begin a session; see `SessionStore.create`."""
        request = messages.create_request(session_id, ttl_s)
        return messages.session_from_proto(self._change(self._stub.CreateSession, request).session)

    def append(
        self, session_id: str, text: str, *, expected_version: int | None = None
    ) -> SessionInfo:
        """Add text to a session; see `SessionStore.append`."""
        request = messages.append_request(session_id, text, expected_version)
        return messages.session_from_proto(self._change(self._stub.AppendSession, request).session)

    def generate(
        self,
        session_id: str,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        expected_version: int | None = None,
    ) -> Continuation:
        """Let the model go on; see `SessionStore.generate`."""
        request = messages.generate_request(
            session_id,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            expected_version=expected_version,
        )
        return messages.continuation(self._change(self._stub.GenerateSession, request))

    def fork(self, session_id: str, new_id: str | None = None) -> SessionInfo:
        """Begin another session as a copy; see `SessionStore.fork`."""
        request = messages.fork_request(session_id, new_id)
        return messages.session_from_proto(self._change(self._stub.ForkSession, request).session)

    def info(self, session_id: str) -> SessionInfo:
        """Return a session's figures."""
        request = messages.named_request(pb.GetSessionRequest, session_id)
        return messages.session_from_proto(self._read(self._stub.GetSession, request).session)

    def list(self, *, after: str = "", limit: int | None = None) -> Sequence[SessionInfo]:
        """Return the figures of sessions in the order of their names; see `SessionStore.list`."""
        pages = messages.Pages(after, limit)
        while not pages.is_done:
            pages.add(self._read(self._stub.ListSessions, pages.request()))
        return pages.found

    def windows(self, session_id: str) -> Sequence[SessionWindow]:
        """Return the text that the queue remembers; see `SessionStore.windows`."""
        request = messages.named_request(pb.ReadSessionRequest, session_id)
        with typed_errors(self._address):
            parts = self._stub.ReadSession(request, **self._caller.read())
            return [messages.window_from_proto(each) for part in parts for each in part.windows]

    def search(self, session_id: str, query: str, *, top_k: int = 8) -> Sequence[SessionHit]:
        """Return the windows that are nearest to a question; see `SessionStore.search`."""
        request = messages.search_request(session_id, query, top_k)
        response = self._read(self._stub.SearchSession, request)
        return [messages.hit_from_proto(hit) for hit in response.hits]

    def remove(self, session_id: str) -> None:
        """End a session; see `SessionStore.remove`."""
        request = messages.named_request(pb.RemoveSessionRequest, session_id)
        self._change(self._stub.RemoveSession, request)

    def _read(self, method: Any, request: Any) -> Any:
        with typed_errors(self._address):
            return method(request, **self._caller.read())

    def _change(self, method: Any, request: Any) -> Any:
        with typed_errors(self._address):
            return method(request, **self._caller.long())


class AsyncSessionClient:
    """As `SessionClient`; it differs in the awaiting alone."""

    def __init__(self, channel: Any, caller: Caller, address: str) -> None:
        self._stub: Any = session_service_pb2_grpc.SessionServiceStub(channel)  # type: ignore[no-untyped-call]
        self._caller, self._address = caller, address

    async def create(
        self, session_id: str | None = None, *, ttl_s: float | None = None
    ) -> SessionInfo:
        """As `SessionClient.create`."""
        request = messages.create_request(session_id, ttl_s)
        response = await self._change(self._stub.CreateSession, request)
        return messages.session_from_proto(response.session)

    async def append(
        self, session_id: str, text: str, *, expected_version: int | None = None
    ) -> SessionInfo:
        """As `SessionClient.append`."""
        request = messages.append_request(session_id, text, expected_version)
        response = await self._change(self._stub.AppendSession, request)
        return messages.session_from_proto(response.session)

    async def generate(
        self,
        session_id: str,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        expected_version: int | None = None,
    ) -> Continuation:
        """As `SessionClient.generate`."""
        request = messages.generate_request(
            session_id,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            expected_version=expected_version,
        )
        return messages.continuation(await self._change(self._stub.GenerateSession, request))

    async def fork(self, session_id: str, new_id: str | None = None) -> SessionInfo:
        """As `SessionClient.fork`."""
        request = messages.fork_request(session_id, new_id)
        response = await self._change(self._stub.ForkSession, request)
        return messages.session_from_proto(response.session)

    async def info(self, session_id: str) -> SessionInfo:
        """As `SessionClient.info`."""
        request = messages.named_request(pb.GetSessionRequest, session_id)
        response = await self._read(self._stub.GetSession, request)
        return messages.session_from_proto(response.session)

    async def list(self, *, after: str = "", limit: int | None = None) -> Sequence[SessionInfo]:
        """As `SessionClient.list`."""
        pages = messages.Pages(after, limit)
        while not pages.is_done:
            pages.add(await self._read(self._stub.ListSessions, pages.request()))
        return pages.found

    async def windows(self, session_id: str) -> Sequence[SessionWindow]:
        """As `SessionClient.windows`."""
        request = messages.named_request(pb.ReadSessionRequest, session_id)
        with typed_errors(self._address):
            parts = self._stub.ReadSession(request, **self._caller.read())
            return [
                messages.window_from_proto(each) async for part in parts for each in part.windows
            ]

    async def search(self, session_id: str, query: str, *, top_k: int = 8) -> Sequence[SessionHit]:
        """As `SessionClient.search`."""
        request = messages.search_request(session_id, query, top_k)
        response = await self._read(self._stub.SearchSession, request)
        return [messages.hit_from_proto(hit) for hit in response.hits]

    async def remove(self, session_id: str) -> None:
        """As `SessionClient.remove`."""
        request = messages.named_request(pb.RemoveSessionRequest, session_id)
        await self._change(self._stub.RemoveSession, request)

    async def _read(self, method: Any, request: Any) -> Any:
        with typed_errors(self._address):
            return await method(request, **self._caller.read())

    async def _change(self, method: Any, request: Any) -> Any:
        with typed_errors(self._address):
            return await method(request, **self._caller.long())
