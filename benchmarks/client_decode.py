"""Decoded tokens per second at a client: codes on the wire, or the vectors themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.collection import DIM, PASSAGES, build, passage_ids
from benchmarks.harness import Context, Outcome, Table, check, measure, quotient, rate
from benchmarks.serving import serve
from memstore import Client, Store, open_store
from memstore.types import FetchResult, QueryResult

_DTYPE = "bfloat16"
_TOP_K = 100
Answer = QueryResult | FetchResult


def run(context: Context) -> Outcome:
    """Fetch and query many passages at a client and decode all of their tokens."""
    built = build(context.work / "store", PASSAGES[context.quick], context.seed)
    rng = np.random.default_rng(context.seed + 1)
    fetched = 100 if context.quick else 500
    ids = [passage_ids(built.num_passages, fetched, rng) for _ in range(20)]
    rounds, calls = (2, 2) if context.quick else (5, 20)
    store = open_store(built.folder)
    with (
        serve(built.folder) as served,
        Client(served.address, cache_dir=context.work / "codecs") as client,
    ):
        tables, gates = [], []
        for title, ask in {
            f"fetch of {fetched} passages": _fetches(ids),
            f"query, top {_TOP_K}": _queries(built.questions),
        }.items():
            ways = _ways(ask, store, client)
            gates += check(_gates(title, ways))
            seconds = measure(
                {name: lambda i, way=way: decoded(way(i)) for name, way in ways.items()},
                rounds=rounds,
                calls=calls,
            )
            tokens = sum(decoded_tokens(ask(store, turn)) for turn in range(rounds * calls))
            tables.append(_table(title, seconds, tokens / (rounds * calls), built.pins.record_words))
    return Outcome(
        gates=gates,
        settings={**built.settings(), "calls_each": rounds * calls, "rounds": rounds},
        tables=tables,
        notes=[
            "Loopback: the wire costs processor time only. Over a network the bytes a token "
            "decide.",
            f"Every way ends with one {_DTYPE} array a passage in the client's memory.",
        ],
    )
