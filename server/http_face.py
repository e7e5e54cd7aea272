"""The verbs of a `Store` over HTTP: JSON in; JSON or an Arrow stream out.

Does not: check credentials, count requests or map errors; `server.http_edge` does that around every
path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

import memstore
from memstore.client.messages import PAGE_BYTES
from memstore.client.rows import CODES, numpy_dtype
from memstore.errors import CodecNotFoundError, ConfigError, NotFoundError
from memstore.service import Store
from memstore.types import FetchResult, Memory, QueryResult
from server.arrow import ARROW_STREAM, arrow_stream
from server.auth import Auth
from server.http_bodies import (
    DeleteBody,
    FetchBody,
    QueryBody,
    SearchBody,
    json_response,
    memories_json,
    search_json,
)
from server.http_edge import HttpEdge, refuse
from server.metrics import Metrics
from server.session_http import add_sessions
from server.sessions import Sessions
from server.work import Workers

COLLECTION = "/v1/collections/{name}"


@dataclass(slots=True)
class Readiness:
    """Whether the server wants requests."""

    is_ready: bool = False


def create_app(
    store: Store,
    workers: Workers,
    auth: Auth,
    metrics: Metrics,
    readiness: Readiness,
    sessions: Sessions,
) -> FastAPI:
    """Build the HTTP face.

    Args:
        store: answers.
        workers: admits requests and does their work in threads.
        auth: checks the credential.
        metrics: counts; shown at `/metrics`.
        readiness: shown at `/readyz`.
        sessions: answer, if this server keeps any.
    """
    app = FastAPI(
        title="memstore",
        version=memstore.__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # the pages load their scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(HttpEdge, auth=auth, metrics=metrics)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    _add_operations(app, metrics, readiness)
    _add_questions(app, store, workers, metrics)
    _add_collections(app, store, workers)
    add_sessions(app, sessions, workers)
    return app


def _add_operations(app: FastAPI, metrics: Metrics, readiness: Readiness) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        if readiness.is_ready:
            return json_response({"status": "ready"})
        return json_response({"status": "not ready"}, status=503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/info")
    async def info() -> Response:
        return json_response(
            {"name": "memstore", "version": memstore.__version__, "api": "memstore.v1"}
        )


def _add_questions(app: FastAPI, store: Store, workers: Workers, metrics: Metrics) -> None:
    async def answer(
        request: Request, ask: Callable[[], QueryResult | FetchResult], dtype: str
    ) -> Response:
        def counted() -> QueryResult | FetchResult:
            result = ask()
            _count(metrics, result.memories, dtype)
            return result

        if ARROW_STREAM in request.headers.get("accept", ""):
            return _WorkedStream(workers, lambda: arrow_stream(counted(), dtype), ARROW_STREAM)
        with workers.admit() as job:
            return await job.run(lambda: json_response(memories_json(counted(), dtype)))

    @app.post(COLLECTION + "/search")
    async def search(name: str, body: SearchBody) -> Response:
        with workers.admit() as job:
            return await job.run(
                lambda: json_response(search_json(store.search(**question(name, body))))
            )

    @app.post(COLLECTION + "/query")
    async def query(name: str, body: QueryBody, request: Request) -> Response:
        return await answer(
            request, lambda: store.query(**question(name, body)), body.decode or CODES
        )

    @app.post(COLLECTION + "/fetch")
    async def fetch(name: str, body: FetchBody, request: Request) -> Response:
        return await answer(
            request,
            lambda: store.fetch(body.passage_ids, collection=name, version=body.version),
            body.decode or CODES,
        )

    def question(name: str, body: SearchBody) -> dict[str, Any]:
        return {"collection": name, **body.model_dump(exclude={"decode"})}


def _count(metrics: Metrics, memories: Sequence[Memory], dtype: str) -> None:
    num_tokens = sum(memory.num_tokens for memory in memories)
    for memory in memories[:1]:
        width = memory.codec.record_words if dtype == CODES else memory.codec.dim
        num_bytes = num_tokens * width * numpy_dtype(dtype).itemsize
        metrics.count_rows(num_tokens, num_bytes, is_decoded=dtype != CODES)


def _add_collections(app: FastAPI, store: Store, workers: Workers) -> None:
    @app.get("/v1/collections")
    async def collections() -> Response:
        with workers.admit() as job:
            found = await job.run(store.collections)
        return json_response({"collections": [asdict(info) for info in found]})

    @app.get(COLLECTION)
    async def collection_info(name: str, version: int | None = None) -> Response:
        with workers.admit() as job:
            return json_response(asdict(await job.run(store.collection_info, name, version)))

    @app.get(COLLECTION + "/versions")
    async def versions(name: str) -> Response:
        with workers.admit() as job:
            found = await job.run(store.versions, name)
        return json_response({"versions": [asdict(info) for info in found]})

    @app.post(COLLECTION + "/delete")
    async def delete(name: str, body: DeleteBody) -> Response:
        with workers.admit() as job:
            commit = await job.run(lambda: store.delete(collection=name, **body.model_dump()))
        return json_response(asdict(commit))

    @app.get(COLLECTION + "/codecs/{codec_id}/{file}")
    async def codec_file(name: str, codec_id: str, file: str) -> Response:
        def parts() -> Iterator[bytes]:
            reader = store.codec_files(name, codec_id).get(file)
            if reader is None:
                raise CodecNotFoundError(f"codec {codec_id}: it has no file {file!r}")
            for offset in range(0, reader.num_bytes, PAGE_BYTES):
                yield bytes(reader.read(offset, min(PAGE_BYTES, reader.num_bytes - offset)))

        return _WorkedStream(workers, parts, "application/octet-stream")


class _WorkedStream(StreamingResponse):
    """A streamed answer whose parts are made by the workers.

    The first part is made before the status goes out, so that an error still has its own.
    """

    def __init__(
        self, workers: Workers, make_parts: Callable[[], Iterable[bytes]], media_type: str
    ) -> None:
        super().__init__(iter(()), media_type=media_type)
        self._workers = workers
        self._make_parts = make_parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._workers.admit() as job:
            parts = job.stream(self._make_parts)
            first = await anext(parts)

            async def all_parts() -> AsyncIterator[bytes]:
                yield first
                async for part in parts:
                    yield part

            self.body_iterator = all_parts()
            await super().__call__(scope, receive, send)


async def _invalid_request(request: Request, err: Exception) -> Response:
    """Name the fields that are wrong; what was sent stays out of the message."""
    faults = err.errors() if isinstance(err, RequestValidationError) else []
    text = "; ".join(
        f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults[:10]
    )
    raise ConfigError(f"request: {text}") from err


async def _http_error(request: Request, err: Exception) -> Response:
    """Spell what routing says (no such path, no such method) like every other error."""
    status = err.status_code if isinstance(err, HTTPException) else 500
    where = f"{request.method} {request.url.path}"
    if status == 404:
        return refuse(request, NotFoundError(f"{where}: no such path"), status)
    told = HTTPStatus(status).phrase if status != 400 else "the body is not JSON in UTF-8"
    return refuse(request, ConfigError(f"{where}: {told}"), status)
