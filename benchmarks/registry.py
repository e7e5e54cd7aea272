"""The benchmarks by name, in the order in which all of them run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.harness import Context, Outcome

BENCHMARKS = {
    "startup": "Start-up: what a user waits for before anything happens",
    "pipeline": "Encoding: the whole job against the bare encoder",
    "query": "Queries: embedded and over gRPC",
    "codec": "Codec: against faiss, torch and NumPy, and against the limits of the machine",
    "client_decode": "Decoding at the client: codes on the wire against vectors on the wire",
    "reader": "Reader: where the time of an answer goes",
    "server_memory": "Memory of the server over the size of its data",
    "index": "Index: exact search against an inverted file",
    "sessions": "Sessions: bytes, append, resume and search, and ten thousand of them",
    "melodi": "MELODI: training, reading and writing, against models that keep more or less",
    "longvq": "LongVQ: time and memory by length, against attention to every token",
    "cranfield": "Cranfield: ranking by the service against exact search on uncompressed vectors",
}


def run(name: str, context: Context) -> Outcome:
    """Run a benchmark by name.

    Raises:
        GateError: if it does not compute the right thing.
        DataMissingError: if it needs data that is not there.
    """
    outcome: Outcome = import_module(f"benchmarks.{name}").run(context)
    return outcome
