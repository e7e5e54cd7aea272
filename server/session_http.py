"""The verbs of a `SessionStore` over HTTP: JSON in, JSON out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

from fastapi import FastAPI
from fastapi.responses import Response

from memstore.client.session_messages import MAX_PAGE
from memstore.errors import ConfigError
from memstore.sessions import SessionStore
from server.http_bodies import Body, Text, json_response
from server.session_grpc import page
from server.sessions import Sessions
from server.work import Workers

SESSIONS = "/v1/sessions"
SESSION = SESSIONS + "/{session_id}"

T = TypeVar("T")


class CreateBody(Body):
    """A session to begin: its name, or none to have one drawn; seconds until it expires."""

    session_id: Text | None = None
    ttl_s: float | None = None


class AppendBody(Body):
    """Text to add, and the version that it follows on."""

    text: Text
    expected_version: int | None = None


class GenerateBody(Body):
    """How the model is to go on."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    expected_version: int | None = None


class ForkBody(Body):
    """Name of a copy, or none to have one drawn."""

    new_id: Text | None = None


_DRAWN_NAME, _DRAWN_COPY = CreateBody(), ForkBody()  # of a request without a body


class SearchBody(Body):
    """A question to a session."""

    query: Text
    top_k: int = 8


def add_sessions(app: FastAPI, sessions: Sessions, workers: Workers) -> None:
    """Add the paths of sessions.

    Args:
        app: takes them.
        sessions: answer.
        workers: admits requests and does their work in threads.
    """
    _add_reads(app, sessions, workers)

    async def change(session_id: str | None, make: Callable[[SessionStore], T]) -> T:
        with workers.admit() as job:
            async with sessions.turn(session_id or ""):
                return await job.run(make, sessions.store)

    @app.post(SESSIONS)
    async def create(body: CreateBody = _DRAWN_NAME) -> Response:
        info = await change(
            body.session_id, lambda store: store.create(body.session_id, ttl_s=body.ttl_s)
        )
        return json_response(asdict(info))

    @app.post(SESSION + "/append")
    async def append(session_id: str, body: AppendBody) -> Response:
        info = await change(session_id, lambda store: store.append(session_id, **body.model_dump()))
        return json_response(asdict(info))

    @app.post(SESSION + "/generate")
    async def generate(session_id: str, body: GenerateBody) -> Response:
        made = await change(
            session_id, lambda store: store.generate(session_id, **body.model_dump())
        )
        return json_response(asdict(made))

    @app.post(SESSION + "/fork")
    async def fork(session_id: str, body: ForkBody = _DRAWN_COPY) -> Response:
        info = await change(body.new_id, lambda store: store.fork(session_id, body.new_id))
        return json_response(asdict(info))

    @app.delete(SESSION)
    async def remove(session_id: str) -> Response:
        await change(session_id, lambda store: store.remove(session_id))
        return json_response({})


def _add_reads(app: FastAPI, sessions: Sessions, workers: Workers) -> None:
    async def read(ask: Callable[[SessionStore], T]) -> T:
        with workers.admit() as job:
            return await job.run(ask, sessions.store)

    @app.get(SESSIONS)
    async def ls(page_size: int = MAX_PAGE, page_token: str = "") -> Response:
        if not 1 <= page_size <= MAX_PAGE:
            raise ConfigError(f"page_size: got {page_size}, wanted 1 to {MAX_PAGE}")
        found, token = await read(lambda store: page(store, page_token, page_size))
        return json_response(
            {"sessions": [asdict(info) for info in found], "next_page_token": token}
        )

    @app.get(SESSION)
    async def info(session_id: str) -> Response:
        return json_response(asdict(await read(lambda store: store.info(session_id))))

    @app.get(SESSION + "/windows")
    async def windows(session_id: str) -> Response:
        found = await read(lambda store: store.windows(session_id))
        return json_response({"windows": [asdict(window) for window in found]})

    @app.post(SESSION + "/search")
    async def search(session_id: str, body: SearchBody) -> Response:
        hits = await read(lambda store: store.search(session_id, **body.model_dump()))
        return json_response({"hits": [asdict(hit) for hit in hits]})
