"""Embedded, gRPC sync, gRPC async, HTTP JSON and HTTP Arrow answer alike."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest

from memstore import AsyncClient, Client, Store
from memstore.types import FetchResult, QueryResult

QUESTIONS = {
    "text": {"query": "word7 common", "top_k": 5},
    "vector": {"query": np.linspace(-1, 1, 16, dtype=np.float32), "top_k": 3},
    "filter": {"query": "word7", "top_k": 9, "where": "lang == 'de' and w > 1.5"},
    "no hits": {"query": "word7", "where": "lang == 'fr'"},
    "rerank": {"query": "word7 common", "top_k": 3, "rerank": 20},
    "version": {"query": "word7 word8", "version": 1},
}
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
ARROW = {"accept": "application/vnd.apache.arrow.stream"}


def _asyncly(address: str, cache_dir: Path, verb: str, *args: Any, **options: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(address, cache_dir=cache_dir) as client:
            return await getattr(client, verb)(*args, **options)

    return asyncio.run(ask())


def _body(question: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in question.items()
    }


def _assert_same(got: QueryResult | FetchResult, wanted: QueryResult | FetchResult) -> None:
    for name in ("collection", "version", "encoder_id", "codec_id"):
        assert getattr(got, name) == getattr(wanted, name)
    passages = "hits" if isinstance(wanted, QueryResult) else "passages"
    assert getattr(got, passages) == getattr(wanted, passages)
    assert len(got.memories) == len(wanted.memories)
    for mine, theirs in zip(got.memories, wanted.memories, strict=True):
        assert mine.passage_id == theirs.passage_id
        assert mine.records.dtype == np.uint16
        np.testing.assert_array_equal(mine.records, theirs.records)
        np.testing.assert_array_equal(mine.decode(), theirs.decode())


@pytest.mark.parametrize("name", QUESTIONS)
def test_grpc_query_equals_embedded(
    name: str, store: Store, serve: Callable, connect: Callable, tmp_path: Path
):
    """Hits, scores, codes and decoded vectors are equal for the sync and the async client."""
    question = QUESTIONS[name]
    server = serve(store)
    wanted = store.query(**question)
    _assert_same(connect(server).query(**question), wanted)
    _assert_same(_asyncly(server.grpc, tmp_path / "codecs", "query", **question), wanted)


@pytest.mark.parametrize("name", QUESTIONS)
def test_search_gives_the_hits_of_query_on_every_face(
    name: str, store: Store, serve: Callable, connect: Callable, tmp_path: Path
):
    """Search answers with equal hits embedded, over gRPC and over HTTP."""
    question = QUESTIONS[name]
    server = serve(store)
    wanted = store.search(**question)
    assert connect(server).search(**question) == wanted
    assert _asyncly(server.grpc, tmp_path / "codecs", "search", **question) == wanted
    response = httpx.post(
        f"{server.http}/v1/collections/default/search", json=_body(question)
    ).json()
    assert [(hit["passage_id"], hit["score"], hit["metadata"]) for hit in response["hits"]] == [
        (hit.passage_id, hit.score, dict(hit.metadata)) for hit in wanted.hits
    ]


@pytest.mark.parametrize("name", QUESTIONS)
def test_http_query_equals_embedded(name: str, store: Store, serve: Callable):
    """JSON with base64 and the Arrow stream carry the codes bit by bit, with equal scores."""
    question = QUESTIONS[name]
    server = serve(store)
    wanted = store.query(**question)
    url = f"{server.http}/v1/collections/default/query"

    answer = httpx.post(url, json=_body(question)).json()
    assert answer["codec_id"] == wanted.codec_id
    assert [hit["score"] for hit in answer["hits"]] == [hit.score for hit in wanted.hits]
    for memory, theirs in zip(answer["memories"], wanted.memories, strict=True):
        records = np.frombuffer(base64.b64decode(memory["data"]), "<u2").reshape(memory["shape"])
        np.testing.assert_array_equal(records, theirs.records)

    stream = httpx.post(url, json=_body(question), headers=ARROW).content
    table = pa.ipc.open_stream(stream).read_all()
    assert table.schema.metadata[b"version"] == b"1"
    assert table.schema.metadata[b"codec_id"].decode() == wanted.codec_id
    assert table["score"].to_pylist() == [hit.score for hit in wanted.hits]
    assert table["text"].to_pylist() == [hit.text for hit in wanted.hits]
    metadata = [json.loads(text) for text in table["metadata"].to_pylist()]
    assert metadata == [dict(hit.metadata) for hit in wanted.hits]
    for codes, theirs in zip(table["codes"].to_pylist(), wanted.memories, strict=True):
        records = np.array(codes, dtype=np.int16).view(np.uint16)
        np.testing.assert_array_equal(records, theirs.records)


def test_fetch_is_equal_on_every_face(
    store: Store, serve: Callable, connect: Callable, tmp_path: Path
):
    """Fetch keeps the order asked, and gives equal passages and codes on every face."""
    server = serve(store)
    ids = ["doc-31#1", "doc-3#0", "doc-17#2"]
    wanted = store.fetch(ids)
    assert [passage.passage_id for passage in wanted.passages] == ids
    _assert_same(connect(server).fetch(ids), wanted)
    _assert_same(_asyncly(server.grpc, tmp_path / "codecs", "fetch", ids), wanted)
    url = f"{server.http}/v1/collections/default/fetch"
    answer = httpx.post(url, json={"passage_ids": ids}).json()
    assert [passage["passage_id"] for passage in answer["passages"]] == ids
    stream = httpx.post(url, json={"passage_ids": ids}, headers=ARROW).content
    table = pa.ipc.open_stream(stream).read_all()
    assert table["passage_id"].to_pylist() == ids
    assert [len(codes) for codes in table["codes"].to_pylist()] == [
        memory.num_tokens for memory in wanted.memories
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_decoded_vectors_are_those_of_the_codec(
    dtype: str, store: Store, serve: Callable, connect: Callable
):
    """Vectors that the server decodes equal those that a reader decodes, on every face."""
    server = serve(store)
    wanted = store.query("word5 common", top_k=4)
    result = connect(server).query("word5 common", top_k=4, decoded=dtype)
    url = f"{server.http}/v1/collections/default/query"
    body = {"query": "word5 common", "top_k": 4, "decode": dtype}
    answer = httpx.post(url, json=body).json()
    table = pa.ipc.open_stream(httpx.post(url, json=body, headers=ARROW).content).read_all()
    arrow = table["vectors"].combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False)
    expected = [memory.decode(dtype) for memory in wanted.memories]
    for got, json_memory, vectors in zip(
        result.memories, answer["memories"], expected, strict=True
    ):
        assert got.decode(dtype).dtype == DTYPES[dtype]
        assert got.decode(dtype).tobytes() == vectors.tobytes()
        assert got.to_torch().shape == vectors.shape
        assert base64.b64decode(json_memory["data"]) == vectors.tobytes()
    assert arrow.tobytes() == b"".join(vectors.tobytes() for vectors in expected)


def test_figures_are_equal_on_every_face(
    store: Store, serve: Callable, connect: Callable, tmp_path: Path
):
    """Collections, one collection and versions answer alike."""
    store.delete(document_ids=["doc-1"])
    server = serve(store)
    client: Client = connect(server)
    codecs = tmp_path / "codecs"
    http = httpx.Client(base_url=server.http)
    assert client.collections() == store.collections()
    assert client.collection_info("default", 1) == store.collection_info("default", 1)
    assert client.versions() == store.versions()
    assert _asyncly(server.grpc, codecs, "collections") == store.collections()
    assert _asyncly(server.grpc, codecs, "collection_info") == store.collection_info()
    assert _asyncly(server.grpc, codecs, "versions") == store.versions()
    listed = http.get("/v1/collections").json()["collections"]
    assert [info["num_passages"] for info in listed] == [39]
    assert http.get("/v1/collections/default?version=1").json()["num_passages"] == 40
    versions = http.get("/v1/collections/default/versions").json()["versions"]
    assert [info["version"] for info in versions] == [1, 2]


def test_a_codec_over_http_is_byte_for_byte_that_of_the_store(store: Store, serve: Callable):
    """The two files of a codec can be fetched over HTTP and loaded."""
    server = serve(store)
    codec = store.codec()
    base = f"{server.http}/v1/collections/default/codecs/{codec.id}"
    for name, content in codec.files().items():
        assert httpx.get(f"{base}/{name}").content == bytes(content)
    missing = httpx.get(f"{base}/weights.pt")
    assert missing.status_code == 404
    assert missing.json()["code"] == "CODEC_NOT_FOUND"
