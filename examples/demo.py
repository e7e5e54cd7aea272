"""The demonstration behind `make demo`: encode a real corpus through a local Ray, serve it, ask it.

Can be run again: the finished job is a no-op, and the store is served as it is.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import memstore
from examples.docstrings import write_corpus

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(".demo")
QUESTIONS = (
    "How do I read rows of a CSV file as dictionaries?",
    "What removes the oldest entries from a cache when it is full?",
    "Which function merges several sorted inputs into one?",
)
MEMSTORE = [sys.executable, "-m", "memstore"]


def main() -> None:
    """Run the demonstration."""
    corpus, store = FOLDER / "corpus.jsonl", FOLDER / "store"
    _say("1. A corpus: the docstrings of this Python's standard library")
    print(f"   {write_corpus(corpus):,} documents in {corpus}")
    _say(f"2. memstore encode {corpus} --store {store} --ray local")
    report = _encode(corpus, store)
    _print_report(report)
    _say(f"3. memstore serve --store {store}")
    with _server(store) as address:
        _say(f"4. Three questions to {address} over gRPC; codes on the wire, decoded here")
        with memstore.Client(address) as client:
            for question in QUESTIONS:
                _ask(client, question)
    _print_next_steps(corpus, store)


def _encode(corpus: Path, store: Path) -> dict[str, Any]:
    command = [*MEMSTORE, "encode", str(corpus), "--store", str(store), "--ray", "local"]
    # Small partitions give smooth progress.
    command += ["--partition-bytes", "65536", "--output", "json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _print_report(report: dict[str, Any]) -> None:
    if report["already_done"]:
        print("   encoded by an earlier run; remove .demo/ to begin afresh")
    rate = report["num_tokens"] / report["seconds"]
    counts = f"{report['num_passages']:,} passages, {report['num_tokens']:,} tokens"
    print(f"   version {report['version']}: {counts}")
    print(f"   bytes per token: {report['memory_bytes']} → {report['record_bytes']}")
    print(f"   relative squared error on held-out memories: {report['reconstruction_error']:.3f}")
    if not report["already_done"]:
        print(f"   {report['seconds']:.0f} s with set-up and codec training: {rate:,.0f} tokens/s")


@contextmanager
def _server(store: Path) -> Iterator[str]:
    grpc, http = (f"127.0.0.1:{_free_port()}" for _ in range(2))
    command = [*MEMSTORE, "serve", "--store", str(store), "--grpc", grpc, "--http", http]
    with (FOLDER / "server.log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        _wait_until_ready(f"http://{http}/readyz", process)
        print(f"   ready; its log is {FOLDER / 'server.log'}")
        yield grpc
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 (our own loopback address)
                return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"the server stopped: see {FOLDER / 'server.log'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ask(client: memstore.Client, question: str) -> None:
    began = time.perf_counter()
    result = client.query(question, top_k=3)
    took_ms = 1000 * (time.perf_counter() - began)
    print(f"\n   {question}   ({took_ms:.0f} ms)")
    for hit, memory in zip(result.hits, result.memories, strict=True):
        vectors = memory.decode("float32")
        norm = float(np.linalg.norm(vectors, axis=1).mean())
        text = textwrap.shorten(hit.text, 70, placeholder="…")
        print(f"   {hit.score:.3f}  {hit.passage_id}: {text}")
        codes = f"{memory.records.nbytes:,} bytes of codes"
        print(f"          {codes} → {vectors.shape} vectors, mean norm {norm:.1f}")


def _print_next_steps(corpus: Path, store: Path) -> None:
    _say("Go on")
    print(f"   .venv/bin/memstore query 'how do I parse arguments?' --store {store}")
    print(f"   .venv/bin/memstore collection show --store {store}")
    print("   .venv/bin/memstore encode YOUR_FOLDER --store my.mem")
    print(f"   run again: `make demo` finds {corpus} encoded and does nothing twice")


def _say(line: str) -> None:
    print(f"\n{line}", flush=True)


if __name__ == "__main__":
    main()
