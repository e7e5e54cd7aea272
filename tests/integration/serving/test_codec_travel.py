"""How a client comes to its codec: fetched once, kept by digest, verified, bounded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from memstore import AsyncClient, Store
from memstore.errors import ConfigError, InvalidInputError
from memstore.types import Passage

GET_CODEC = 'memstore_rpc_requests_total{code="OK",method="memstore.v1.MemoryService/GetCodec"}'


def _codec_fetches(http: str) -> float:
    lines = httpx.get(f"{http}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(GET_CODEC))


def test_a_codec_is_fetched_once_and_found_by_the_next_client(
    store: Store, serve: Callable, connect: Callable, tmp_path: Path
):
    """Threads, calls and clients that share a cache folder fetch a codec one time."""
    server = serve(store)
    client = connect(server)
    callers = [threading.Thread(target=client.query, args=("word1",)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    connect(server).fetch(["doc-1#1"])
    assert _codec_fetches(server.http) == 1
    assert [folder.name for folder in (tmp_path / "codecs").iterdir()] == [store.codec().id]


def test_tasks_of_an_async_client_fetch_a_codec_once(store: Store, serve: Callable, tmp_path: Path):
    """Concurrent queries of one event loop wait for one fetch."""
    server = serve(store)

    async def ask() -> None:
        async with AsyncClient(server.grpc, cache_dir=tmp_path / "aio") as client:
            results = await asyncio.gather(*(client.query("word1") for _ in range(4)))
        assert all(result.hits == results[0].hits for result in results)

    asyncio.run(ask())
    assert _codec_fetches(server.http) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_codec_is_thrown_away_and_fetched_again(
    damage: str, store: Store, serve: Callable, connect: Callable, tmp_path: Path
):
    """What lies in the cache is never trusted."""
    server = serve(store)
    wanted = connect(server).query("word1").memories[0].decode()
    file = tmp_path / "codecs" / store.codec().id / "codec.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.unlink()
    if damage != "remove":
        file.write_bytes(content if damage == "flip" else content[:-1])
    got = connect(server).query("word1").memories[0].decode()
    np.testing.assert_array_equal(got, wanted)
    assert _codec_fetches(server.http) == 2


def test_a_codec_larger_than_the_cache_is_refused_with_the_way_out(
    store: Store, serve: Callable, connect: Callable, tmp_path: Path
):
    """The error names `decoded=`, and that works without a codec."""
    client = connect(serve(store), cache_bytes=100)
    with pytest.raises(ConfigError, match="decoded="):
        client.query("word1")
    assert list((tmp_path / "codecs").iterdir()) == []
    assert client.query("word1", decoded="float16").memories[0].decode().dtype == np.float32
    assert list((tmp_path / "codecs").iterdir()) == []


def test_long_texts_travel_in_pages_and_refuse_to_travel_in_one_message(
    store: Store, serve: Callable, connect: Callable
):
    """Hits of more than 4 MiB come whole by query; search says to ask for fewer."""
    encoder_id = store.encoder().identity.id
    long = "common " * 20_000
    passages = [Passage(document_id=f"long-{i}", number=0, text=f"{long}{i}") for i in range(40)]
    memory = store.fetch(["doc-1#1"]).memories[0].decode()
    store.write(passages, [memory] * 40, collection="long", encoder_id=encoder_id)
    client = connect(serve(store))
    result = client.query("common", top_k=40, collection="long")
    assert sorted(hit.text for hit in result.hits) == sorted(passage.text for passage in passages)
    with pytest.raises(InvalidInputError, match="fewer hits"):
        client.search("common", top_k=40, collection="long")
    fetched = client.fetch([passage.passage_id for passage in passages], collection="long")
    assert [passage.text for passage in fetched.passages] == [p.text for p in passages]


def test_many_rows_travel_in_many_chunks(store: Store, serve: Callable, connect: Callable):
    """Memories of several MiB arrive bit by bit, as codes and decoded, and so do they by write."""
    rng = np.random.default_rng(0)
    client = connect(serve(store))
    memories = [rng.standard_normal((1500 + i, 256), dtype=np.float32) for i in range(4)]
    passages = [Passage(document_id=f"big-{i}", number=0, text="big") for i in range(4)]
    client.write(passages, memories, collection="big")
    ids = [passage.passage_id for passage in passages]
    wanted = store.fetch(ids, collection="big")
    got = client.fetch(ids, collection="big")
    decoded = client.fetch(ids, collection="big", decoded="float32")
    for mine, plain, theirs in zip(got.memories, decoded.memories, wanted.memories, strict=True):
        np.testing.assert_array_equal(mine.records, theirs.records)
        np.testing.assert_array_equal(plain.decode(), theirs.decode())


def test_a_write_over_the_limit_says_to_split_it(store: Store, serve: Callable, connect: Callable):
    """The server holds at most `max_write_bytes` of one write."""
    client = connect(serve(store, max_write_bytes=1 << 20))
    passages = [Passage(document_id="big", number=0, text="big")]
    with pytest.raises(InvalidInputError, match="split it"):
        client.write(passages, [np.ones((20_000, 16), np.float32)], collection="big")
    assert [info.name for info in client.collections()] == ["default"]
