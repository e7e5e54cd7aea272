"""Decoded tokens per second at a client: codes on the wire, or the vectors themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.collection import DIM, PASSAGES, build, passage_ids
from benchmarks.harness import Context, Outcome, Table, Timings, check, measure, quotient, rate
from benchmarks.serving import serve
from memstore import Client, open_store
from memstore.types import FetchResult, QueryResult

_DTYPE = "bfloat16"
_CODES = "codes on the wire, decoded by the client"
_VECTORS = f"{_DTYPE} on the wire, decoded by the server"
_EMBEDDED = "embedded, no wire"
Read = Callable[[int], list[np.ndarray]]


def run(context: Context) -> Outcome:
    """Fetch and query many passages at a client, and decode all of their tokens."""
    built = build(context.work / "store", PASSAGES[context.quick], context.seed)
    rng = np.random.default_rng(context.seed + 1)
    rounds, calls, fetched, top_k = (2, 2, 100, 20) if context.quick else (5, 20, 500, 100)
    ids = [passage_ids(built.num_passages, fetched, rng) for _ in range(calls)]
    questions = list(built.questions[:calls])
    store = open_store(built.folder)
    tables: list[Table] = []
    gates: list[str] = []
    with (
        serve(built.folder) as served,
        Client(served.address, cache_dir=context.work / "codecs") as client,
    ):
        for title, ways in {
            f"Fetch of {fetched} passages": _ways(store.fetch, client.fetch, ids),
            f"Query, top {top_k}": _ways(store.query, client.query, questions, top_k=top_k),
        }.items():
            gates += check({f"{title}: the three ways give the same bits": _same(ways)})
            seconds = measure(ways, rounds=rounds, calls=calls)
            num_tokens = sum(len(array) for i in range(calls) for array in ways[_EMBEDDED](i))
            tables.append(_table(title, seconds, num_tokens / calls, 2 * built.pins.record_words))
    return Outcome(
        gates=gates,
        settings={**built.settings(), "calls_each": rounds * calls, "rounds": rounds},
        tables=tables,
        notes=[
            "On loopback the wire costs processor time alone; over a network the bytes a token "
            "decide.",
            f"Each way ends with one {_DTYPE} array a passage in the caller's memory; a query's "
            "time includes its search.",
        ],
    )


def _ways(
    embedded: Callable[..., QueryResult | FetchResult],
    remote: Callable[..., QueryResult | FetchResult],
    asked: Sequence[Any],
    **options: Any,
) -> dict[str, Read]:
    def read(call: Callable[..., QueryResult | FetchResult], **more: Any) -> Read:
        def once(turn: int) -> list[np.ndarray]:
            result = call(asked[turn % len(asked)], **options, **more)
            return [memory.decode(_DTYPE) for memory in result.memories]

        return once

    return {_CODES: read(remote), _VECTORS: read(remote, decoded=_DTYPE), _EMBEDDED: read(embedded)}


def _same(ways: dict[str, Read]) -> Callable[[], bool]:
    def holds() -> bool:
        one, *others = (way(0) for way in ways.values())
        return all(
            [array.tobytes() for array in other] == [array.tobytes() for array in one]
            for other in others
        )

    return holds


def _table(title: str, seconds: Timings, num_tokens: float, record_bytes: int) -> Table:
    wire_bytes = {_CODES: record_bytes, _VECTORS: 2 * DIM, _EMBEDDED: 0}
    return Table(
        title=f"{title}, {num_tokens:,.0f} tokens a call",
        columns=("way", "decoded", "against codes on the wire", "payload a token"),
        rows=[
            (
                name,
                rate(taken, num_tokens, "tokens/s"),
                quotient(seconds[_CODES], taken),
                f"{wire_bytes[name]} B",
            )
            for name, taken in seconds.items()
        ],
    )
