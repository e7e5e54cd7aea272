"""A real `memstore serve` in a process of its own, on loopback, and what it holds in memory."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MEMSTORE = (sys.executable, "-m", "memstore")
_START_S = 600.0


@dataclass(frozen=True, slots=True)
class Served:
    """A server that is ready: its gRPC address and process id."""

    address: str
    pid: int


@contextmanager
def serve(store: Path) -> Iterator[Served]:
    """Serve a store while the context lasts.

    Raises:
        RuntimeError: if the server stops or does not become ready; the message ends with its log.
    """
    grpc, http = (f"127.0.0.1:{_free_port()}" for _ in range(2))
    log_file = store.parent / f"{store.name}.server.log"
    command = [*MEMSTORE, "serve", "--store", str(store), "--grpc", grpc, "--http", http]
    with log_file.open("w") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        if not _becomes_ready(f"http://{http}/readyz", process):
            raise RuntimeError(f"the server did not start:\n{log_file.read_text()[-2000:]}")
        yield Served(grpc, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)


def memory_of(pid: int) -> dict[str, int]:
    """Return a process's memory in bytes: `resident`, `anonymous` (its own) and `file` (pages of
    files, which the kernel may drop), from /proc/PID/smaps_rollup.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    fields = {key: int(value.split()[0]) for key, _, value in (x.partition(":") for x in lines)}
    resident, anonymous = 1024 * fields["Rss"], 1024 * fields["Anonymous"]
    return {"resident": resident, "anonymous": anonymous, "file": resident - anonymous}


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _becomes_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 (our own loopback address)
                return True
        except OSError:
            time.sleep(0.1)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
