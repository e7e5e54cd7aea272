"""Queries and fetches on one collection, embedded and over gRPC, call by call in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.collection import PASSAGES, WHERE, build, passage_ids
from benchmarks.harness import (
    Context,
    Outcome,
    Table,
    check,
    latency_row,
    measure,
    rate,
)
from benchmarks.serving import serve
from memstore import Client, Store, open_store
from memstore.types import FetchResult, Memory, QueryResult, SearchResult

_TOP_K = 8
_FETCHED = 100
_CLIENTS = 8
_GATE_CALLS = 50
_GATE = f"gRPC and embedded give the same bits, {_GATE_CALLS} calls of each kind"
Source = Store | Client
Ask = Callable[[Source, int], SearchResult | FetchResult]


@dataclass(frozen=True, slots=True)
class _Questions:
    """What call number `i` asks for: a vector, or ids to fetch."""

    vectors: np.ndarray
    ids: Sequence[list[str]]

    def search(self, source: Source, i: int) -> SearchResult:
        return source.search(self.vectors[i % len(self.vectors)], top_k=_TOP_K)

    def search_where(self, source: Source, i: int) -> SearchResult:
        return source.search(self.vectors[i % len(self.vectors)], top_k=_TOP_K, where=WHERE)

    def query(self, source: Source, i: int) -> QueryResult:
        return source.query(self.vectors[i % len(self.vectors)], top_k=_TOP_K)

    def query_where(self, source: Source, i: int) -> QueryResult:
        return source.query(self.vectors[i % len(self.vectors)], top_k=_TOP_K, where=WHERE)

    def query_decoded(self, source: Source, i: int) -> QueryResult:
        result = self.query(source, i)
        for memory in result.memories:
            memory.decode("bfloat16")
        return result

    def fetch(self, source: Source, i: int) -> FetchResult:
        return source.fetch(self.ids[i % len(self.ids)])

    def kinds(self) -> dict[str, Ask]:
        """Return what is timed, by name."""
        return {
            f"search, top {_TOP_K}, no memories": self.search,
            f"search, top {_TOP_K}, filtered": self.search_where,
            f"query, top {_TOP_K}, codes": self.query,
            f"query, top {_TOP_K}, codes, filtered": self.query_where,
            f"query, top {_TOP_K}, decoded to bfloat16": self.query_decoded,
            f"fetch of {_FETCHED} passages, codes": self.fetch,
        }


def run(context: Context) -> Outcome:
    """Build a collection, serve it, and ask it in this process and over gRPC."""
    built = build(context.work / "store", PASSAGES[context.quick], context.seed)
    rng = np.random.default_rng(context.seed + 1)
    ids = [passage_ids(built.num_passages, _FETCHED, rng) for _ in range(100)]
    kinds = _Questions(built.questions, ids).kinds()
    rounds, calls = (2, 10) if context.quick else (5, 200)
    with ExitStack() as stack:
        served = stack.enter_context(serve(built.folder))
        cache = context.work / "codecs"
        clients = [
            stack.enter_context(Client(served.address, cache_dir=cache)) for _ in range(_CLIENTS)
        ]
        sources: dict[str, Source] = {"embedded": open_store(built.folder), "gRPC": clients[0]}
        gates = check({_GATE: lambda: _same_answers(kinds, sources)})
        seconds = measure(
            {
                f"{name}: {where}": partial(ask, source)
                for name, ask in kinds.items()
                for where, source in sources.items()
            },
            rounds=rounds,
            calls=calls,
            warmups=3,
        )
        load = _under_load(kinds, sources["embedded"], clients, rounds, calls)
    return Outcome(
        gates=gates,
        settings={
            **built.settings(),
            "filter": WHERE,
            "calls_each": rounds * calls,
            "rounds": rounds,
        },
        tables=[
            Table(
                title=f"One caller, {built.num_passages:,} passages, questions as vectors",
                columns=("call", "p50", "p99"),
                rows=[latency_row(name, taken) for name, taken in seconds.items()],
            ),
            load,
        ],
        notes=[
            "Embedded and gRPC calls alternate; the server is a process of its own on the same "
            "cores.",
            "Of the callers at once, each is a thread of one process, over gRPC with a connection "
            "of its own.",
        ],
    )


def _same_answers(kinds: dict[str, Ask], sources: dict[str, Source]) -> bool:
    return all(
        same_answer(*(ask(source, i) for source in sources.values()))
        for ask in kinds.values()
        for i in range(_GATE_CALLS)
    )


def same_answer(one: SearchResult | FetchResult, other: SearchResult | FetchResult) -> bool:
    """Say whether two answers are equal: hits, scores, texts, version, and memories bit by bit."""
    names = set(type(one).__dataclass_fields__) - {"memories"}
    plain = all(getattr(one, name) == getattr(other, name) for name in names)
    ours, theirs = _memories(one), _memories(other)
    return plain and len(ours) == len(theirs) and all(map(_same_memory, ours, theirs))


def _memories(result: SearchResult | FetchResult) -> Sequence[Memory]:
    return result.memories if isinstance(result, QueryResult | FetchResult) else ()


def _same_memory(one: Memory, other: Memory) -> bool:
    return (
        one.passage_id == other.passage_id
        and np.array_equal(one.records, other.records)
        and one.decode("bfloat16").tobytes() == other.decode("bfloat16").tobytes()
    )


def _under_load(
    kinds: dict[str, Ask], store: Source, clients: Sequence[Client], rounds: int, calls: int
) -> Table:
    """Time `calls` requests of eight callers at once, in turns over kinds and sources."""
    everywhere: dict[str, Sequence[Source]] = {
        "embedded": [store] * len(clients),
        "gRPC": clients,
    }
    with ThreadPoolExecutor(len(clients)) as pool:

        def together(ask: Ask, sources: Sequence[Source]) -> Callable[[int], None]:
            def once(turn: int) -> None:
                turns = range(turn * calls, (turn + 1) * calls)
                asked = [pool.submit(ask, sources[i % len(sources)], i) for i in turns]
                for answer in asked:
                    answer.result()

            return once

        seconds = measure(
            {
                f"{name}: {where}": together(ask, sources)
                for name, ask in kinds.items()
                for where, sources in everywhere.items()
            },
            rounds=rounds,
        )
    return Table(
        title=f"{len(clients)} callers at once",
        columns=("call", "requests"),
        rows=[(name, rate(taken, calls, "/s")) for name, taken in seconds.items()],
    )
