"""A typed error raised by the store reaches every caller as the same class."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from memstore import AsyncClient, Store
from memstore.errors import (
    ConfigError,
    DeadlineError,
    InternalError,
    MemstoreError,
    PassageNotFoundError,
    ShapeError,
    UnavailableError,
    error_class,
    error_classes,
)
from memstore.types import Passage, SearchResult

CLASSES = [cls for cls in error_classes() if cls is not MemstoreError]
SECRET = "the text of a passage"


class FailingStore(Store):
    """Fails as the name of the collection says."""

    def search(self, query: Any, *, collection: str = "default", **options: Any) -> SearchResult:
        """Raise the error with this code, or one that is not typed."""
        if collection == "bug":
            raise RuntimeError(SECRET)
        raise error_class(collection)(f"ünusual {collection}", object="shards/a", count=3)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_class_comes_back_as_itself(
    cls: type[MemstoreError], store: Store, serve: Callable, connect: Callable, tmp_path: Path
):
    """Class, message and details survive gRPC (sync, async) and HTTP."""
    server = serve(FailingStore(store.objects))
    name = cls.code.value

    async def ask() -> None:
        async with AsyncClient(server.grpc, cache_dir=tmp_path) as client:
            await client.search("q", collection=name)

    with pytest.raises(MemstoreError) as sync:
        connect(server).search("q", collection=name)
    with pytest.raises(MemstoreError) as aio:
        asyncio.run(ask())
    for caught in (sync.value, aio.value):
        assert type(caught) is cls
        assert caught.message == f"ünusual {name}"
        assert caught.details == {"object": "shards/a", "count": "3"}
    response = httpx.post(f"{server.http}/v1/collections/{name}/search", json={"query": "q"})
    assert response.status_code == cls.http_status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["code"], problem["status"]) == (name, cls.http_status)
    assert problem["detail"] == f"ünusual {name}"
    assert problem["details"] == {"object": "shards/a", "count": "3"}
    assert ("retry-after" in response.headers) == cls.retryable


def test_a_fault_of_the_server_says_nothing_of_its_text(
    store: Store, serve: Callable, connect: Callable, caplog: pytest.LogCaptureFixture
):
    """An untyped exception leaves as an incident, and its text stays in the log."""
    server = serve(FailingStore(store.objects))
    with pytest.raises(InternalError) as caught:
        connect(server).search("q", collection="bug")
    response = httpx.post(f"{server.http}/v1/collections/bug/search", json={"query": "q"})
    assert response.status_code == 500
    assert SECRET not in str(caught.value)
    assert SECRET not in response.text
    assert caught.value.details["incident"] in caplog.text
    assert SECRET in caplog.text


@pytest.mark.parametrize("top_k", [0, -1, 1001, 10**9, 10**30, "8"])
def test_a_bad_top_k_is_a_config_error(
    top_k: Any, store: Store, serve: Callable, connect: Callable
):
    """However large or odd, `top_k` is refused with the same class as embedded."""
    server = serve(store)
    with pytest.raises(ConfigError):
        connect(server).query("word1", top_k=top_k)
    if isinstance(top_k, int):
        body = {"query": "word1", "top_k": top_k} if abs(top_k) < 1 << 60 else None
        text = f'{{"query": "word1", "top_k": {top_k}}}'
        response = httpx.post(
            f"{server.http}/v1/collections/default/query",
            content=text,
            headers={"content-type": "application/json"},
        )
        assert (response.status_code, response.json()["code"]) == (400, "CONFIG"), body


@pytest.mark.parametrize(
    "vector",
    [np.zeros(3), np.zeros((2, 16)), np.full(16, np.nan), np.full(16, np.inf)],
    ids=["narrow", "two", "nan", "infinite"],
)
def test_a_bad_vector_is_a_shape_error(
    vector: np.ndarray, store: Store, serve: Callable, connect: Callable
):
    """Width, axes and values of a query vector are checked."""
    with pytest.raises(ShapeError):
        connect(serve(store)).query(vector)


def test_nan_in_json_is_a_shape_error(store: Store, serve: Callable):
    """Python's JSON spells NaN; it is refused like anywhere else."""
    response = httpx.post(
        f"{serve(store).http}/v1/collections/default/query",
        content='{"query": [' + ", ".join(["NaN"] * 16) + "]}",
        headers={"content-type": "application/json"},
    )
    assert (response.status_code, response.json()["code"]) == (400, "SHAPE")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"query": 1}',
        b'{"query": "q", "typo": 1}',
        b'{"query": "\\ud800"}',
        b'{"query": "q", "decode": "int8"}',
        b"\xff\xfe",
    ],
)
def test_a_body_that_is_not_a_question_is_a_config_error(
    body: bytes, store: Store, serve: Callable
):
    """Validation answers 400 with problem+json, like the rest."""
    response = httpx.post(
        f"{serve(store).http}/v1/collections/default/query",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert (response.status_code, response.json()["code"]) == (400, "CONFIG")


def test_broken_filter_and_unknown_ids_keep_their_classes(
    store: Store, serve: Callable, connect: Callable
):
    """A filter that does not parse, an unknown passage, no ids at all: as embedded."""
    client = connect(serve(store))
    with pytest.raises(ConfigError):
        client.query("word1", where="year >=")
    with pytest.raises(PassageNotFoundError, match="nobody#0"):
        client.fetch(["nobody#0"])
    with pytest.raises(ConfigError):
        client.fetch([])
    with pytest.raises(ConfigError, match="wanted a list"):
        client.fetch("doc-1#1")
    with pytest.raises(ConfigError):
        client.query("word1", decoded="int8")
    with pytest.raises(ConfigError):
        client.delete()
    with pytest.raises(ConfigError):
        client.delete(where="lang == 'en'", document_ids=["doc-1"])
    with pytest.raises(ConfigError):
        client.search("word1", collection="../etc")
    with pytest.raises(ConfigError):
        client.search("\ud800")


def test_a_body_over_the_cap_is_refused(store: Store, serve: Callable):
    """More than 4 MiB of body is refused, announced or not."""
    url = f"{serve(store).http}/v1/collections/default/fetch"
    body = b'{"passage_ids": ["' + b"x" * (4 << 20) + b'"]}'
    announced = httpx.post(url, content=body, headers={"content-type": "application/json"})
    streamed = httpx.post(
        url,
        content=(body[i : i + 65536] for i in range(0, len(body), 65536)),
        headers={"content-type": "application/json"},
    )
    for response in (announced, streamed):
        assert (response.status_code, response.json()["code"]) == (400, "INVALID_INPUT")


def test_a_write_that_cannot_be_sent_raises_its_own_error_and_commits_nothing(
    store: Store, serve: Callable, connect: Callable
):
    """A bad value in the middle of a write is the error that the caller sees."""
    client = connect(serve(store))
    passages = [
        Passage(document_id="new-1", number=0, text="a"),
        Passage(document_id="new-2", number=0, text="b", metadata={"bad": [1]}),
    ]
    memories = [np.ones((2, 16), np.float32)] * 2
    with pytest.raises(MemstoreError, match="bad"):
        client.write(passages, memories)
    assert client.collection_info().version == 1


def test_a_server_that_is_not_there_is_named(connect: Callable):
    """The error names the address and what to do."""
    client = connect("127.0.0.1:1")
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1.*memstore serve"):
        client.search("q")
    with pytest.raises(UnavailableError):
        client.write([Passage(document_id="a", number=0, text="t")], [np.ones((1, 4), np.float32)])


def test_tls_against_a_server_without_it_is_unavailable(
    store: Store, serve: Callable, connect: Callable, tmp_path: Path
):
    """Both clients take credentials, and the error still names the address."""
    server = serve(store)
    credentials = grpc.ssl_channel_credentials()

    async def ask() -> None:
        async with AsyncClient(server.grpc, cache_dir=tmp_path, credentials=credentials) as client:
            await client.search("word1")

    with pytest.raises(UnavailableError, match=server.grpc):
        connect(server, credentials=credentials).search("word1")
    with pytest.raises(UnavailableError, match=server.grpc):
        asyncio.run(ask())


def test_an_answer_that_takes_too_long_is_a_deadline_error(
    store: Store, serve: Callable, connect: Callable
):
    """The client gives up after `timeout_s`."""
    client = connect(serve(store), timeout_s=1e-6)
    with pytest.raises(DeadlineError, match="timeout_s"):
        client.query("word1")
