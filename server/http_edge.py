"""Around every HTTP request: credential, cap on the body, counters, errors as problem+json."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memstore.errors import InvalidInputError, MemstoreError
from server.auth import Auth
from server.metrics import OK, Call, Metrics
from server.status import PROBLEM_JSON, problem, problem_headers, typed

MAX_BODY_BYTES = 4 << 20
OPEN_PATHS = frozenset({"/healthz", "/readyz"})


class HttpEdge:
    """ASGI middleware; guards all paths but `OPEN_PATHS`.

    Args:
        app: what answers.
        auth: checks the credential.
        metrics: counts and times.
    """

    def __init__(self, app: ASGIApp, auth: Auth, metrics: Metrics) -> None:
        self._app = app
        self._auth = auth
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        with self._metrics.observe("unmatched") as call:
            await self._guarded(call, scope, receive, send)
            route = scope.get("route")
            if route is not None:
                call.method = f"{scope['method']} {route.path}"

    async def _guarded(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def watched_send(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._auth.check(headers.get("authorization"))
            _check_length(int(headers.get("content-length", "0")))
            await self._app(scope, await _with_body(receive), watched_send)
            call.code = scope.get("state", {}).get("error_code", OK)
        except Exception as err:
            error = typed(err)
            self._metrics.note(error)
            call.code = error.code.value
            if has_started:
                raise  # the status is out: closing the connection is all that can still be said
            await problem_response(error)(scope, receive, send)


def _check_length(num_bytes: int) -> None:
    if num_bytes > MAX_BODY_BYTES:
        raise InvalidInputError(
            f"request body: {num_bytes:,} bytes and more, at most {MAX_BODY_BYTES:,}; split it",
            limit_bytes=MAX_BODY_BYTES,
        )


async def _with_body(receive: Receive) -> Receive:
    """Read the body before it is parsed: its announced length may be missing, or wrong."""
    body = bytearray()
    has_more = True
    while has_more:
        message = await receive()
        body += message.get("body", b"")
        _check_length(len(body))
        has_more = message.get("more_body", False)
    whole: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

    async def replay() -> Message:
        nonlocal whole
        message, whole = whole, None
        return await receive() if message is None else message

    return replay


def problem_response(error: MemstoreError, status: int | None = None) -> Response:
    """Return an error as a response; `status` differs for HTTP's own errors alone."""
    body = problem(error, status)
    return Response(
        orjson.dumps(body), body["status"], problem_headers(error), media_type=PROBLEM_JSON
    )


def refuse(request: Request, error: MemstoreError, status: int) -> Response:
    """Return an error of HTTP itself, such as a method that a path does not have."""
    state: dict[str, Any] = request.scope.setdefault("state", {})
    state["error_code"] = error.code.value
    return problem_response(error, status)
