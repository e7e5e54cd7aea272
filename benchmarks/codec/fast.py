"""Fast encoding by batch, against faiss's graphs over the centroids; with what each loses."""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from benchmarks.codec import peers
from benchmarks.codec.errors import loss
from benchmarks.codec.exact import in_turns, ours
from benchmarks.codec.materials import Material
from benchmarks.codec.parts import Bar, Part, Subject, time_each
from benchmarks.codec.sizes import Sizes
from benchmarks.harness import Cell, Table, check, quotient, rate
from memstore.codec import ProductCodec

_CHECKED_ROWS = 1_024
_MOST_LOSS = 1.01  # times the squared error of exact search
_EF_SEARCH = 8, 16, 32, 64, 128


def fast(material: Material, sizes: Sizes) -> Part:
    """Check the loss of fast search, then time it."""
    began = time.perf_counter()
    _encode(material.codec, material.vectors[:1])
    laid_out_s = time.perf_counter() - began
    gate = f"{material.data}: fast search's squared error is at most {_MOST_LOSS} times exact's"
    gates = check({gate: partial(_is_faithful, material)})
    graphs, losses = _graphs(material, sizes)
    ways = {f"ours, fast, batch {n:,}": _ours(material, n) for n in sizes.encode_batches}
    vectors, part = material.part(sizes.peer_subspaces)
    losses |= dict.fromkeys(ways, loss(vectors, part, _encode(part, vectors)))
    middle = sizes.encode_batches[1]
    exactly = {f"ours, exact, batch {middle:,}": ours(material, middle)}
    losses |= dict.fromkeys(exactly, 1.0)
    seconds = time_each({**ways, **exactly, **graphs}, rounds=sizes.rounds, pause_s=sizes.pause_s)
    first, equal, longest = next(iter(graphs)), list(graphs)[-1], list(ways)[-1]
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            rate(taken, 1, "tokens/s"),
            f"{losses[name]:.4f}",
            quotient(seconds[first], taken),
            quotient(seconds[equal], taken),
        )
        for name, taken in seconds.items()
    ]
    columns = "by", "tokens/s", "squared error over exact's", f"times {first}", f"times {equal}"
    return Part(
        gates=gates,
        tables=[Table(title=f"Fast encode, {material.data}", columns=columns, rows=rows)],
        targets={"graph": {material.data: quotient(seconds[equal], seconds[longest])}},
        bars=[
            Bar("encode", name, material.data, rate(seconds[name], 1, ""))
            for name in (longest, first)
        ],
        notes=[
            f"Fast encode, {material.data}: the first call lays the codebook out, in "
            f"{laid_out_s:.1f} s. The graphs have {peers.HNSW_NEIGHBOURS} neighbours, from "
            "efSearch 8 to the least that loses no more than we may; they are asked "
            f"{sizes.encode_batches[-1]:,} vectors a call, of {sizes.peer_subspaces} subspaces in "
            "turns, on which the errors are taken too.",
        ],
    )


def _encode(codec: ProductCodec, vectors: np.ndarray) -> np.ndarray:
    return codec.encode(vectors, search="fast")


def _ours(material: Material, batch: int) -> Subject:
    return Subject(lambda _: _encode(material.codec, material.vectors[:batch]), batch)


def _is_faithful(material: Material) -> bool:
    vectors = material.vectors[:_CHECKED_ROWS]
    return loss(vectors, material.codec, _encode(material.codec, vectors)) <= _MOST_LOSS


def _graphs(material: Material, sizes: Sizes) -> tuple[dict[str, Subject], dict[str, float]]:
    """Return graph searches and their losses, up to the first that loses as little as ours may."""
    vectors, codec = material.part(sizes.peer_subspaces)
    indexes = [peers.graph_index(each) for each in material.centroids(sizes.peer_subspaces)]
    parts = material.subvectors(sizes.peer_subspaces)
    subjects: dict[str, Subject] = {}
    losses: dict[str, float] = {}
    for ef_search in _EF_SEARCH:
        name = f"faiss HNSW, efSearch {ef_search}"
        searches = [peers.graph_search(index, ef_search) for index in indexes]
        codes = [search(part) for search, part in zip(searches, parts, strict=True)]
        losses[name] = loss(vectors, codec, np.stack(codes, axis=1))
        subjects[name] = in_turns(searches, material, len(vectors), sizes)
        if losses[name] <= _MOST_LOSS:
            break
    return subjects, losses
