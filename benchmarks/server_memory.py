"""Memory of `memstore serve` over the size of the data that it serves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.collection import COLUMNS, PASSAGES, Built, build
from benchmarks.harness import Cell, Context, Outcome, Table, check, spread
from benchmarks.query import same_answer
from benchmarks.serving import folder_bytes, memory_of, serve
from memstore import Client, open_store
from memstore.encoders import EncoderOptions, read_identity
from memstore.storage import NewShards, commit_shards

_FEW = 100
_MIB = 2.0**20
Question = Callable[[int], str | np.ndarray]
Samples = list[dict[str, int]]


def run(context: Context) -> Outcome:
    """Start the server afresh in each round, with and without an encoder, and query it."""
    rounds, num_queries = (1, 50) if context.quick else (3, 1_000)
    few = build(context.work / "few", _FEW, context.seed)
    many = build(context.work / "store", PASSAGES[context.quick], context.seed)
    data_bytes = folder_bytes(many.folder)
    gates = check({"the server answers as the store does": lambda: _answers(many, context.work)})
    vectors = many.questions

    def sample(name: str, built: Built, question: Question) -> dict[str, Samples]:
        taken = [_sample(built.folder, context.work, num_queries, question) for _ in range(rounds)]
        started, queried = zip(*taken, strict=True)
        states = "when ready", f"after {num_queries:,} queries"
        title = f"{built.num_passages:,} passages, {name}"
        return {f"{title}, {states[0]}": [*started], f"{title}, {states[1]}": [*queried]}

    samples = sample("no encoder", few, lambda i: vectors[i % len(vectors)])
    least = median(each["anonymous"] for each in next(iter(samples.values())))
    samples |= sample("no encoder", many, lambda i: vectors[i % len(vectors)])
    _pin_default_encoder(many)
    samples |= sample("with the encoder", many, lambda i: f"what does function {i} return?")
    return Outcome(
        gates=gates,
        settings={**many.settings(), "data_bytes": data_bytes, "rounds": rounds},
        tables=[
            Table(
                title=f"{data_bytes / _MIB:,.0f} MiB of data on disk",
                columns=(
                    "server",
                    "resident",
                    "anonymous",
                    "file",
                    "resident / data",
                    "own / data",
                ),
                rows=[_row(name, taken, data_bytes, least) for name, taken in samples.items()],
            )
        ],
        notes=[
            "Resident is anonymous and file together. File pages are the mapped shards and "
            "libraries in the page cache, which the kernel drops when it needs room.",
            f"Own: anonymous memory beyond that of the server with {_FEW} passages, no encoder, "
            "when ready.",
            "A query asks for the top 8 with memories: by vector without an encoder, by text with "
            "one.",
        ],
    )


def _sample(
    store: Path, work: Path, num_queries: int, question: Question
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the memory of a fresh server, when it is ready and after some queries."""
    with serve(store) as served, Client(served.address, cache_dir=work / "codecs") as client:
        when_ready = memory_of(served.pid)
        for i in range(num_queries):
            client.query(question(i), top_k=8)
        return when_ready, memory_of(served.pid)


def _row(name: str, samples: Samples, data_bytes: int, least: float) -> tuple[Cell, ...]:
    resident, anonymous, file = (
        np.array([each[kind] for each in samples]) for kind in ("resident", "anonymous", "file")
    )
    return (
        name,
        *(spread(values / _MIB, "MiB") for values in (resident, anonymous, file)),
        spread(resident / data_bytes, ""),
        spread((anonymous - least) / data_bytes, ""),
    )


def _answers(built: Built, work: Path) -> bool:
    store = open_store(built.folder)
    with serve(built.folder) as served, Client(served.address, cache_dir=work / "codecs") as client:
        return all(same_answer(store.query(v), client.query(v)) for v in built.questions[:10])


def _pin_default_encoder(built: Built) -> None:
    """Publish the same shards as a collection of the default encoder, so that the server loads
    it.
    """
    options = EncoderOptions()
    identity = read_identity(options)
    encoder = {"id": identity.id, "identity": identity.to_dict(), "options": options.to_dict()}
    commit_shards(
        open_store(built.folder).collection("default"),
        NewShards(entries=built.entries, metadata_columns=COLUMNS),
        dataclasses.replace(built.pins, encoder=encoder),
        mode="replace",
    )
