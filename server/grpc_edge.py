"""Around every gRPC method: the credential, the counters, and errors as google.rpc.Status.

Being one interceptor it cannot be forgotten by a method that is added later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from server.auth import Auth
from server.metrics import OK, Metrics
from server.status import grpc_failure, typed

_OPEN = "/grpc.health.v1.Health/"


class GrpcEdge(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Guards all methods but the health check, which is open.

    Args:
        auth: checks the credential.
        metrics: counts and times.
    """

    def __init__(self, auth: Auth, metrics: Metrics) -> None:
        self._auth = auth
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Return the method's handler with the guard around it."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or method.startswith(_OPEN):
            return handler
        authorization = dict(handler_call_details.invocation_metadata).get("authorization")

        @asynccontextmanager
        async def guard(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
            with self._metrics.observe(method.removeprefix("/")) as call:
                try:
                    self._auth.check(authorization)
                    yield
                    call.code = OK
                except (asyncio.CancelledError, GeneratorExit):
                    raise
                except Exception as err:
                    error = typed(err)
                    self._metrics.note(error)
                    call.code = error.code.value
                    await context.abort(*grpc_failure(error))

        return _guarded(handler, guard)


def _guarded(handler: grpc.RpcMethodHandler, guard: Callable[..., Any]) -> grpc.RpcMethodHandler:
    """Return a handler of the same kind whose work runs inside `guard(context)`."""
    if handler.response_streaming:
        stream = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def answer_stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async with guard(context):
                async for response in stream(request, context):
                    yield response

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(answer_stream, handler.request_deserializer, handler.response_serializer)

    unary = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def answer(request: Any, context: Any) -> Any:
        async with guard(context):
            return await unary(request, context)

    make = (
        grpc.stream_unary_rpc_method_handler
        if handler.request_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return make(answer, handler.request_deserializer, handler.response_serializer)
