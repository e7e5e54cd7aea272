"""Encoding, exact and fast: how many tokens a second, of what the machine could do, against peers."""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from benchmarks.codec import peers
from benchmarks.codec.ceilings import SGEMM, products
from benchmarks.codec.materials import Material
from benchmarks.codec.parts import Bar, Part, Subject, fastest, least, repeated, time_each
from benchmarks.codec.sizes import Sizes
from benchmarks.harness import Cell, Table, Timings, check, quotient, rate
from memstore.codec import ProductCodec
from memstore.codec.kernels import reference

COMPUTE_CODES = "faiss compute_codes"
FLAT = "faiss flat index a subspace"
_FAST = "ours, fast"
_CHECKED_ROWS = 64
_FAST_ROWS = 1_024
_ROUNDING = 4e-6  # of |x|^2 and the squared error: scores of 16 products in float32
_MOST_LOSS = 1.01  # times the squared error of exact search
_REPEATS = 4  # of what is timed beside a call that takes half a minute
_EF_SEARCH = 8, 16, 32, 64, 128


def exact(material: Material, sizes: Sizes) -> Part:
    """Check exact search, then time it by batch against the searches of others."""
    gates = check(
        {
            f"{material.data}: exact codes are those of a float64 search, or as near within "
            "rounding": partial(_is_exact, material),
        }
    )
    subjects = {f"ours, batch {n:,}": _ours(material, n) for n in sizes.encode_batches}
    *short, long = subjects
    _, chunk, long_batch = sizes.encode_batches
    others = _others(material, sizes)
    ceilings = products(sizes)
    seconds = time_each(
        {name: subjects[name] for name in short} | others | ceilings, rounds=sizes.rounds
    )
    named = (COMPUTE_CODES, FLAT, *SGEMM)
    again = {name: repeated((others | ceilings)[name], _REPEATS) for name in named}
    seconds_long = time_each(again | {long: subjects[long]}, rounds=sizes.long_rounds, warmups=0)
    ours = {name: (seconds_long if name == long else seconds) for name in subjects}
    rows = [_row(name, taken, sizes) for name, taken in ours.items()]
    rows += [_row(name, seconds, sizes) for name in others]
    rows += [(name, "", rate(seconds[name], 1e-9, "GFLOP/s"), "", "", "") for name in ceilings]
    flat = least(quotient(taken[FLAT], taken[name]) for name, taken in ours.items())
    of_sgemm = least(_of_sgemm(name, taken, sizes) for name, taken in ours.items())
    codes = quotient(seconds[COMPUTE_CODES], seconds[short[0]])
    speeds = ours | dict.fromkeys(others, seconds)
    return Part(
        gates=gates,
        tables=[
            Table(
                title=f"Exact encode, {material.data}",
                columns=(
                    "by",
                    "tokens/s",
                    "work",
                    "of sgemm",
                    "times compute_codes",
                    "times flat index",
                ),
                rows=rows,
            )
        ],  # fmt: skip
        targets={
            "compute_codes": {material.data: codes},
            "flat": {material.data: flat},
            "sgemm": {material.data: of_sgemm},
        },
        bars=[
            Bar("encode", name, material.data, rate(taken[name], 1, ""))
            for name, taken in speeds.items()
        ],
        notes=[
            f"Exact encode, {material.data}: the largest batch was timed apart, {sizes.long_rounds} "
            "times, in turns with what its ratios compare it with. compute_codes was timed on "
            f"{sizes.table_subspaces} subspaces at once, batch {sizes.encode_batches[0]}; the flat "
            f"index, torch and NumPy on {sizes.peer_subspaces} in turns, batches "
            f"{long_batch:,}, {chunk:,} and {chunk:,}.",
        ],
    )


def fast(material: Material, sizes: Sizes) -> Part:
    """Check the loss of fast search, then time it by batch against graphs over the centroids."""
    gate = f"{material.data}: fast search's squared error is at most {_MOST_LOSS} times exact's"
    gates = check({gate: partial(_is_faithful, material)})
    began = time.perf_counter()
    encode_fast(material.codec, material.vectors[:1])
    laid_out_s = time.perf_counter() - began
    graphs, losses = _graphs(material, sizes)
    subjects = {
        f"{_FAST}, batch {n:,}": Subject(
            lambda _, n=n: encode_fast(material.codec, material.vectors[:n]), n
        )
        for n in sizes.encode_batches
    }
    losses |= dict.fromkeys(subjects, _fast_loss(material, sizes))
    exactly = f"ours, batch {sizes.encode_batches[1]:,}"
    subjects |= graphs | {exactly: _ours(material, sizes.encode_batches[1])}
    losses[exactly] = 1.0
    seconds = time_each(subjects, rounds=sizes.rounds)
    first, equal = list(graphs)[0], list(graphs)[-1]
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
    longest = f"{_FAST}, batch {sizes.encode_batches[-1]:,}"
    return Part(
        gates=gates,
        tables=[Table(title=f"Fast encode, {material.data}", columns=columns, rows=rows)],
        targets={"graph": {material.data: quotient(seconds[first], seconds[longest])}},
        bars=[
            Bar("encode", name, material.data, rate(seconds[name], 1, ""))
            for name in (longest, *graphs)
        ],
        notes=[
            f"Fast encode, {material.data}: laying the codebook out for the first call took "
            f"{laid_out_s:.1f} s; the graphs are of 16 neighbours, and are asked "
            f"{sizes.encode_batches[-1]:,} vectors at a time, on {sizes.peer_subspaces} subspaces "
            "in turns. The target counts against efSearch 8, whatever its error.",
        ],
    )


def encode_fast(codec: ProductCodec, vectors: np.ndarray) -> np.ndarray:
    """Encode by fast search."""
    return codec.encode(vectors, search="fast")


def _ours(material: Material, batch: int) -> Subject:
    return Subject(lambda _: material.codec.encode(material.vectors[:batch]), batch)


def _others(material: Material, sizes: Sizes) -> dict[str, Subject]:
    """Return the exact searches of others; a call is of some subspaces, and counts as such."""
    short, chunk, long = sizes.encode_batches
    count = sizes.table_subspaces
    whole = material.centroids(count)
    encode = peers.table_encode(whole)
    vectors = np.ascontiguousarray(material.vectors[:short, : count * sizes.width])
    found = {
        COMPUTE_CODES: Subject(lambda _: encode(vectors), short * count / sizes.num_subspaces),
        FLAT: _in_turns([peers.flat_search(c) for c in _some(whole, sizes)], material, long, sizes),
    }
    parts = material.subvectors(sizes.peer_subspaces)[:, :chunk]
    for name, make in (
        ("torch product and argmax", peers.torch_search),
        ("NumPy product and argmax", peers.numpy_search),
    ):
        searches = [make(c, p) for c, p in zip(_some(whole, sizes), parts, strict=True)]
        found[name] = _in_turns(searches, material, chunk, sizes)
    return found


def _some(centroids: np.ndarray, sizes: Sizes) -> np.ndarray:
    return centroids[: sizes.peer_subspaces]


def _in_turns(
    searches: list[peers.Search], material: Material, batch: int, sizes: Sizes
) -> Subject:
    """Search one subspace a call, another each time: what it needs is not in the caches."""
    parts = material.subvectors(len(searches))[:, :batch]

    def call(turn: int) -> object:
        place = turn % len(searches)
        return searches[place](parts[place])

    return Subject(call, batch / sizes.num_subspaces)


def _row(name: str, seconds: Timings, sizes: Sizes) -> tuple[Cell, ...]:
    taken = seconds[name]
    return (
        name,
        rate(taken, 1, "tokens/s"),
        rate(taken, _flops(sizes) / 1e9, "GFLOP/s"),
        _of_sgemm(name, seconds, sizes),
        quotient(seconds[COMPUTE_CODES], taken),
        quotient(seconds[FLAT], taken),
    )


def _flops(sizes: Sizes) -> float:
    return 2.0 * sizes.codebook_size * sizes.num_subspaces * sizes.width


def _of_sgemm(name: str, seconds: Timings, sizes: Sizes) -> Cell:
    best = fastest(seconds, SGEMM)
    return quotient(_flops(sizes) * seconds[best], seconds[name])


def _is_exact(material: Material) -> bool:
    vectors, codec = material.vectors[:_CHECKED_ROWS], material.codec
    ours = _errors(vectors, codec, codec.encode(vectors))
    best = _errors(vectors, codec, reference.assign(vectors, codec.codebook))
    lengths = np.square(vectors, dtype=np.float64).reshape(*ours.shape, -1).sum(axis=2)
    return bool((ours - best <= _ROUNDING * (lengths + best)).all())


def _errors(vectors: np.ndarray, codec: ProductCodec, codes: np.ndarray) -> np.ndarray:
    """Return (N, M) float64, the squared distances from the centroids that (N, M) codes name."""
    decoded = reference.gather(codes, codec.codebook).astype(np.float64)
    parts = (vectors - decoded).reshape(len(vectors), codec.num_subspaces, -1)
    squared: np.ndarray = np.square(parts).sum(axis=2)
    return squared


def _is_faithful(material: Material) -> bool:
    vectors, codec = material.vectors[:_FAST_ROWS], material.codec
    lost = _errors(vectors, codec, encode_fast(codec, vectors)).sum()
    return bool(lost <= _MOST_LOSS * _errors(vectors, codec, codec.encode(vectors)).sum())


def _part_of(material: Material, sizes: Sizes) -> tuple[ProductCodec, np.ndarray]:
    """Return a codec of the subspaces that peers are timed on, and the vectors' parts in them."""
    codec = ProductCodec(material.codec.codebook[: sizes.peer_subspaces])
    return codec, np.ascontiguousarray(material.vectors[:, : codec.dim])


def _fast_loss(material: Material, sizes: Sizes) -> float:
    codec, vectors = _part_of(material, sizes)
    exact_error = _errors(vectors, codec, codec.encode(vectors)).sum()
    return float(_errors(vectors, codec, encode_fast(codec, vectors)).sum() / exact_error)


def _graphs(material: Material, sizes: Sizes) -> tuple[dict[str, Subject], dict[str, float]]:
    """Return graph searches, from efSearch 8 to the least that loses as little as ours may."""
    codec, vectors = _part_of(material, sizes)
    exact_error = _errors(vectors, codec, codec.encode(vectors)).sum()
    indexes = [peers.graph_index(c) for c in material.centroids(sizes.peer_subspaces)]
    parts = material.subvectors(sizes.peer_subspaces)
    subjects: dict[str, Subject] = {}
    losses: dict[str, float] = {}
    for ef_search in _EF_SEARCH:
        name = f"faiss HNSW, efSearch {ef_search}"
        searches = [peers.graph_search(index, ef_search) for index in indexes]
        codes = np.stack([find(p) for find, p in zip(searches, parts, strict=True)], axis=1)
        losses[name] = float(_errors(vectors, codec, codes).sum() / exact_error)
        subjects[name] = _in_turns(searches, material, len(vectors), sizes)
        if losses[name] <= _MOST_LOSS:
            break
    return subjects, losses
