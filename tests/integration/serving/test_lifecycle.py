"""Ports, health, load, new snapshots and leaving."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from memstore import Client, Passage, Store, open_store
from memstore.client.requests import fetch_request
from memstore.errors import AddressInUseError, CorruptionError, OverloadedError
from memstore.types import SearchResult
from memstore.v1 import memory_service_pb2_grpc


class BlockedStore(Store):
    """Answers a search only when told to."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.objects)
        self.has_begun = threading.Event()
        self.may_answer = threading.Event()

    def search(self, query: Any, **options: Any) -> SearchResult:
        """Wait, then answer with nothing."""
        self.has_begun.set()
        self.may_answer.wait()
        return SearchResult(collection="default", version=1, hits=())


@pytest.mark.parametrize("face", ["grpc", "http"])
def test_a_port_in_use_is_named(face: str, store: Store, serve: Callable):
    """A second server on the same port is refused with the address and the option to change."""
    first = serve(store)
    taken = getattr(first.server, f"{face}_address")
    with pytest.raises(AddressInUseError, match=rf"{taken}.*--{face}"):
        serve(store, **{face: taken})


def test_a_full_server_turns_requests_away_and_serves_again(
    store: Store, serve: Callable, connect: Callable
):
    """Beyond `max_in_flight` both faces say when to come back; those inside are answered."""
    blocked = BlockedStore(store)
    server = serve(blocked, max_in_flight=1)
    client = connect(server)
    answers: list[SearchResult] = []
    inside = threading.Thread(target=lambda: answers.append(client.search("q")))
    inside.start()
    blocked.has_begun.wait()
    with pytest.raises(OverloadedError) as caught:
        client.query("q")
    assert float(caught.value.details["retry_after_s"]) > 0
    refused = httpx.post(f"{server.http}/v1/collections/default/search", json={"query": "q"})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert httpx.get(f"{server.http}/healthz").status_code == 200
    blocked.may_answer.set()
    inside.join()
    assert len(answers) == 1
    assert client.search("q").hits == ()
    assert "memstore_shed_total 2.0" in httpx.get(f"{server.http}/metrics").text


def test_new_snapshots_are_served_without_restart_or_a_failed_request(
    store: Store, store_dir: Path, serve: Callable, connect: Callable
):
    """While two callers ask all the time, five commits of another process's store show up."""
    server = serve(store, poll_interval_s=0.02)
    failures: list[Exception] = []
    done = threading.Event()

    def ask(client: Client) -> None:
        version = 1
        while not done.is_set():
            try:
                result = client.query("word3 common")
            except Exception as err:
                failures.append(err)
                return
            if result.version < version:
                failures.append(AssertionError(f"{result.version} after {version}"))
            version = result.version

    callers = [threading.Thread(target=ask, args=(connect(server),)) for _ in range(2)]
    for caller in callers:
        caller.start()
    writer = open_store(store_dir)
    encoder_id = writer.collection_info().encoder_id
    client = connect(server)
    for i in range(5):
        passage = Passage(document_id=f"late-{i}", number=0, text=f"late{i}")
        memory = store.query("word3").memories[0].decode()
        version = writer.write([passage], [memory], encoder_id=encoder_id).version
        while client.query("word3").version < version:
            assert not failures
        assert client.fetch([f"late-{i}#0"]).passages[0].text == f"late{i}"
    done.set()
    for caller in callers:
        caller.join()
    assert failures == []


def test_writes_and_deletes_over_the_wire_are_commits(
    store: Store, serve: Callable, connect: Callable
):
    """Append, upsert, replace and the three ways to delete, from a client."""
    client = connect(serve(store))
    fetched = client.fetch(["doc-4#1", "doc-5#2"])
    vectors = [memory.decode() for memory in fetched.memories]
    embeddings = store.encoder().embed(["alpha beta", "gamma delta"])
    encoder_id = fetched.encoder_id
    new = [Passage(document_id=f"new-{i}", number=0, text=f"new {i}") for i in range(2)]
    options = {"embeddings": embeddings, "encoder_id": encoder_id}

    added = client.write(new, vectors, **options)
    assert (added.version, added.num_added, added.num_deleted) == (2, 2, 0)
    assert client.search("alpha beta", top_k=1).hits[0].passage_id == "new-0#0"
    upserted = client.write(new[:1], vectors[:1], mode="upsert", encoder_id=encoder_id)
    assert (upserted.num_added, upserted.num_deleted) == (1, 1)
    assert client.delete(passage_ids=["new-0#0", "absent#0"]).num_deleted == 1
    assert client.delete(document_ids=["new-1"]).num_deleted == 1
    assert client.delete(where="lang == 'de'").num_deleted == 20
    replaced = client.write(new, vectors, mode="replace", encoder_id=encoder_id)
    assert client.collection_info().num_passages == 2
    assert client.collection_info().version == replaced.version
    assert len(client.query("word1", version=1).hits) == 8


def test_metrics_count_requests_bytes_and_decoded_tokens(
    store: Store, serve: Callable, connect: Callable
):
    """The figures that an operator watches move, with bounded labels."""
    server = serve(store)
    client = connect(server)
    codes = client.query("word1", top_k=2)
    client.query("word1", top_k=2, decoded="float32")
    httpx.get(f"{server.http}/secret/path/of/a/caller")
    text = httpx.get(f"{server.http}/metrics").text
    num_tokens = sum(memory.num_tokens for memory in codes.memories)
    num_bytes = num_tokens * (2 * store.codec().record_words + 4 * store.codec().dim)
    assert f"memstore_decode_tokens_total {float(num_tokens)}" in text
    assert f"memstore_fetch_bytes_total {float(num_bytes)}" in text
    query = 'code="OK",method="memstore.v1.MemoryService/Query"'
    assert f"memstore_rpc_requests_total{{{query}}} 2.0" in text
    assert 'memstore_rpc_requests_total{code="NOT_FOUND",method="unmatched"} 1.0' in text
    assert "memstore_rpc_duration_seconds_bucket" in text
    assert "memstore_build_info{" in text
    assert "secret" not in text


def test_stored_bytes_that_changed_are_reported_and_counted(
    store_dir: Path, serve: Callable, connect: Callable
):
    """A damaged shard is a CorruptionError at the client and a figure for the operator."""
    (shard,) = store_dir.rglob("*.arrow")
    content = shard.read_bytes()
    shard.unlink()  # other readers keep their mapping of the whole file
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    server = serve(open_store(store_dir))
    with pytest.raises(CorruptionError, match=shard.stem):
        connect(server).query(np.ones(16))
    assert "memstore_corruption_detected_total 1.0" in httpx.get(f"{server.http}/metrics").text


def test_a_reader_that_goes_away_leaves_its_place_to_others(
    store: Store, serve: Callable, connect: Callable
):
    """A stream that is given up half-way, on either face, frees its place at the server."""
    vectors = [np.ones((40_000, 16), np.float32)] * 4
    passages = [Passage(document_id=f"big-{i}", number=0, text="big") for i in range(4)]
    store.write(passages, vectors, collection="big", codec=store.codec())
    server = serve(store, max_in_flight=1)
    client = connect(server)
    ids = [passage.passage_id for passage in passages]

    def has_place() -> bool:
        try:
            return bool(client.search(np.ones(16), collection="big").hits)
        except OverloadedError:
            return False

    with grpc.insecure_channel(server.grpc) as channel:
        stub = memory_service_pb2_grpc.MemoryServiceStub(channel)
        request = fetch_request(ids, collection="big", version=None, decoded="float32")
        call = stub.Fetch(request)
        next(call)
        call.cancel()
    while not has_place():
        pass
    body = {"passage_ids": ids, "decode": "float32"}
    headers = {"accept": "application/vnd.apache.arrow.stream"}
    url = f"{server.http}/v1/collections/big/fetch"
    with httpx.stream("POST", url, json=body, headers=headers) as response:
        next(response.iter_raw())
    while not has_place():
        pass


@pytest.fixture
def process(store_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """`memstore serve` as an operator starts it."""
    command = [sys.executable, "-m", "memstore", "serve", "--store", str(store_dir)]
    started = subprocess.Popen(
        [*command, "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MEMSTORE_DRAIN_S": "2"},
    )
    yield started
    started.kill()
    started.communicate()


def test_sigterm_drains_and_exits_with_zero(
    process: subprocess.Popen[str], connect: Callable, tmp_path: Path
):
    """After SIGTERM health says no, requests are still answered, then the process ends well."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"gRPC (\S+), HTTP (\S+)", line):
            break
    grpc_address, http_address = found.groups()
    client = connect(grpc_address)
    vector = [1.0] * 16
    assert client.query(vector).hits
    ready = f"http://{http_address}/readyz"
    assert httpx.get(ready).status_code == 200
    process.send_signal(signal.SIGTERM)
    while httpx.get(ready).status_code == 200:
        pass
    assert client.query(vector).hits
    with grpc.insecure_channel(grpc_address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert check.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert process.wait() == 0


def test_a_second_signal_ends_the_process_at_once(process: subprocess.Popen[str]):
    """Who cannot wait for the drain sends the signal again."""
    assert process.stderr is not None
    for line in process.stderr:
        if "gRPC" in line:
            break
    process.send_signal(signal.SIGTERM)
    for line in process.stderr:
        if "draining" in line:
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
