"""`memstore.v1.SessionService` on a `SessionStore`: requests to arguments, results to messages.

Does not: check credentials, count requests or map errors; `server.grpc_edge` does that around every
method.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import grpc

from memstore.client.messages import check_size, pages
from memstore.client.session_messages import (
    MAX_PAGE,
    hit_to_proto,
    session_to_proto,
    window_to_proto,
)
from memstore.errors import ConfigError
from memstore.sessions import SessionInfo, SessionStore
from memstore.v1 import session_service_pb2 as pb
from memstore.v1 import session_service_pb2_grpc
from server.sessions import Sessions
from server.work import Workers

SERVICE = pb.DESCRIPTOR.services_by_name["SessionService"].full_name

T = TypeVar("T")


class SessionServicer(session_service_pb2_grpc.SessionServiceServicer):
    """The gRPC face of sessions.

    Args:
        sessions: answer.
        workers: admits requests and does their work in threads.
    """

    def __init__(self, sessions: Sessions, workers: Workers) -> None:
        self._sessions = sessions
        self._workers = workers

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.CreateSessionResponse:
        """Begin a session."""
        ttl_s = request.ttl_s if request.HasField("ttl_s") else None
        info = await self._change(
            request.session_id,
            context,
            lambda store: store.create(request.session_id or None, ttl_s=ttl_s),
        )
        return pb.CreateSessionResponse(session=session_to_proto(info))

    async def AppendSession(
        self, request: pb.AppendSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.AppendSessionResponse:
        """Add text."""
        info = await self._change(
            request.session_id,
            context,
            lambda store: store.append(
                request.session_id, request.text, expected_version=_expected(request)
            ),
        )
        return pb.AppendSessionResponse(session=session_to_proto(info))

    async def GenerateSession(
        self, request: pb.GenerateSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.GenerateSessionResponse:
        """Let the model go on."""
        options: dict[str, Any] = {
            "temperature": request.temperature,
            "seed": request.seed,
            "expected_version": _expected(request),
        }
        if request.HasField("max_new_tokens"):
            options["max_new_tokens"] = request.max_new_tokens
        made = await self._change(
            request.session_id, context, lambda store: store.generate(request.session_id, **options)
        )
        return pb.GenerateSessionResponse(text=made.text, session=session_to_proto(made.session))

    async def ForkSession(
        self, request: pb.ForkSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.ForkSessionResponse:
        """Begin a copy."""
        info = await self._change(
            request.new_id,
            context,
            lambda store: store.fork(request.session_id, request.new_id or None),
        )
        return pb.ForkSessionResponse(session=session_to_proto(info))

    async def GetSession(
        self, request: pb.GetSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetSessionResponse:
        """Answer with a session's figures."""
        info = await self._read(context, lambda store: store.info(request.session_id))
        return pb.GetSessionResponse(session=session_to_proto(info))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListSessionsResponse:
        """Answer with a page of sessions."""
        if request.page_size < 0:
            raise ConfigError(f"page_size: got {request.page_size}, wanted 0 or more")
        size = min(request.page_size or MAX_PAGE, MAX_PAGE)
        found, token = await self._read(
            context, lambda store: page(store, request.page_token, size)
        )
        return pb.ListSessionsResponse(
            sessions=[session_to_proto(info) for info in found], next_page_token=token
        )

    async def ReadSession(
        self, request: pb.ReadSessionRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ReadSessionResponse]:
        """Answer with the text that the queue remembers."""

        def parts() -> Iterator[pb.ReadSessionResponse]:
            windows = self._sessions.store.windows(request.session_id)
            for each in pages(window_to_proto(window) for window in windows):
                yield pb.ReadSessionResponse(windows=each)

        with self._workers.admit(context.time_remaining()) as job:
            async for part in job.stream(parts):
                yield part

    async def SearchSession(
        self, request: pb.SearchSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchSessionResponse:
        """Answer with the nearest windows."""
        options = {"top_k": request.top_k} if request.HasField("top_k") else {}
        hits = await self._read(
            context, lambda store: store.search(request.session_id, request.query, **options)
        )
        response = pb.SearchSessionResponse(hits=[hit_to_proto(hit) for hit in hits])
        return check_size(response, what="answer", fix="ask for fewer hits")

    async def RemoveSession(
        self, request: pb.RemoveSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.RemoveSessionResponse:
        """End a session."""
        await self._change(
            request.session_id, context, lambda store: store.remove(request.session_id)
        )
        return pb.RemoveSessionResponse()

    async def _read(self, context: grpc.aio.ServicerContext, ask: Callable[[SessionStore], T]) -> T:
        with self._workers.admit(context.time_remaining()) as job:
            return await job.run(ask, self._sessions.store)

    async def _change(
        self,
        session_id: str,
        context: grpc.aio.ServicerContext,
        change: Callable[[SessionStore], T],
    ) -> T:
        with self._workers.admit(context.time_remaining()) as job:
            async with self._sessions.turn(session_id):
                return await job.run(change, self._sessions.store)


def page(store: SessionStore, after: str, size: int) -> tuple[list[SessionInfo], str]:
    """Return a page of sessions, and the token of the next; empty: there is none."""
    found = list(store.list(after=after, limit=size + 1))
    return found[:size], found[size - 1].session_id if len(found) > size else ""


def _expected(request: pb.AppendSessionRequest | pb.GenerateSessionRequest) -> int | None:
    return request.expected_version if request.HasField("expected_version") else None
