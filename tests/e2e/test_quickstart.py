"""What a reader of the README does first, with the commands that it prints: encode, query, serve,
ask the server.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from examples.docstrings import docstrings
from tests.tiny import write_jsonl

QUESTION = "How is the hash value of a set computed?"
ANSWER = "_collections_abc.Set._hash"
WHERE = "kind = 'function'"


def _memstore(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "memstore", *map(str, arguments)]


def _run(*arguments: str | Path) -> Any:
    done = subprocess.run(
        _memstore(*arguments, "--output", "json"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _free_ports(count: int) -> Sequence[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextlib.contextmanager
def _serving(store: Path) -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    grpc, http = (f"127.0.0.1:{port}" for port in _free_ports(2))
    command = _memstore("serve", "--store", store, "--grpc", grpc, "--http", http)
    log = store.parent / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        while not _is_ready(f"http://{http}/readyz"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
                pytest.fail(f"the server ended: {log.read_text()}")
        yield grpc, http, process
    finally:
        process.kill()
        process.wait()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 (our own loopback address)
            return True
    except OSError:
        return False


def _ask_http(address: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://{address}/v1/collections/default/search",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


def test_the_commands_of_the_readme_work_one_after_another(tmp_path: Path) -> None:
    """The default encoder finds the right docstring, embedded, over gRPC and over HTTP, with the
    same scores; a sixteenth of the bytes is kept; SIGTERM ends the server with exit code 0.
    """
    corpus = write_jsonl(tmp_path / "corpus.jsonl", list(islice(docstrings(), 60)))
    store = tmp_path / "wiki.mem"

    report = _run("encode", corpus, "--store", store, "--ray", "none")
    assert (report["memory_bytes"], report["record_bytes"]) == (768, 48)
    assert report["num_documents"] == 60

    embedded = _run("query", QUESTION, "--store", store, "--top-k", "3", "--where", WHERE)
    assert embedded["hits"][0]["document_id"] == ANSWER
    assert embedded["hits"][0]["memory"]["num_bytes"] == 48 * embedded["hits"][0]["num_tokens"]

    with _serving(store) as (grpc, http, process):
        over_grpc = _run("query", QUESTION, "--server", grpc, "--top-k", "3", "--where", WHERE)
        body = {"query": QUESTION, "top_k": 3, "where": WHERE}
        over_http = _ask_http(http, body)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0

    assert over_grpc == embedded
    expected = [(hit["passage_id"], pytest.approx(hit["score"])) for hit in embedded["hits"]]
    assert [(hit["passage_id"], hit["score"]) for hit in over_http["hits"]] == expected
