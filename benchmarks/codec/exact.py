"""Exact encoding by batch: against the searches of others, and over what sgemm does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from benchmarks.codec import peers
from benchmarks.codec.ceilings import SGEMM, products
from benchmarks.codec.errors import is_nearest
from benchmarks.codec.materials import Material
from benchmarks.codec.parts import CEILING, Bar, Part, Subject, fastest, least, repeated, time_each
from benchmarks.codec.sizes import Sizes
from benchmarks.harness import Cell, Figure, Table, Timings, check, quotient, rate

_COMPUTE_CODES = "faiss compute_codes"
_FLAT = "faiss flat index"
_CHECKED_ROWS = 64
_REPEATS = 4  # of what is timed beside a call that takes half a minute
_COLUMNS = "by", "tokens/s", "work", "of sgemm", "times compute_codes", "times flat index"


def exact(material: Material, sizes: Sizes) -> Part:
    """Check every search, then time them."""
    searches = _searches(material, sizes)
    gates = check(
        {
            f"{material.data}: codes of {name} are those of a float64 search, or as near within "
            "rounding": partial(_is_nearest, material, each)
            for name, each in {"ours": None, **searches}.items()
        }
    )
    subjects = {f"ours, batch {n:,}": ours(material, n) for n in sizes.encode_batches}
    others = _others(material, searches, sizes)
    timed = _time(subjects, others, sizes)
    rows = [_row(name, seconds, sizes) for name, seconds in timed.items() if name in subjects]
    rows += [_row(name, timed[name], sizes) for name in others]
    rows += [
        (name, "", rate(timed[name][name], 1e-9, "GFLOP/s"), _over(name, timed[name]), "", "")
        for name in products(sizes)
    ]
    return Part(
        gates=gates,
        tables=[Table(title=f"Exact encode, {material.data}", columns=_COLUMNS, rows=rows)],
        targets={
            name: {material.data: figure}
            for name, figure in _reached(timed, list(subjects), sizes).items()
        },
        bars=list(_bars(material.data, timed, sizes)),
    )


def note(sizes: Sizes) -> str:
    """Say how what stands in the tables of `exact` was timed."""
    short, chunk, long = sizes.encode_batches
    return (
        f"Exact encode: compute_codes at batch {short}, on {sizes.table_subspaces} subspaces in a "
        f"call; the flat index at batch {long:,}, torch and NumPy at {chunk:,}, on one subspace in "
        f"a call, of {sizes.peer_subspaces} in turns. Our largest batch was timed "
        f"{sizes.long_rounds} times, in turns with what its ratios compare it with."
    )


def ours(material: Material, batch: int) -> Subject:
    """Return exact encoding of the first vectors, all subspaces."""
    return Subject(lambda _: material.codec.encode(material.vectors[:batch]), batch)


def in_turns(searches: list[peers.Search], material: Material, batch: int, sizes: Sizes) -> Subject:
    """Search one subspace a call, another each time: what it needs is not in the caches."""
    parts = material.subvectors(len(searches))[:, :batch]

    def call(turn: int) -> object:
        place = turn % len(searches)
        return searches[place](parts[place])

    return Subject(call, batch / sizes.num_subspaces)


def _searches(material: Material, sizes: Sizes) -> dict[str, list[peers.Search]]:
    """Return the searches of others by name, one for each of the first subspaces."""
    centroids = material.centroids(sizes.peer_subspaces)
    sample = material.subvectors(1)[0, : sizes.encode_batches[1]]
    return {
        _FLAT: [peers.flat_search(each) for each in centroids],
        "torch product and argmax": [peers.torch_search(each, sample) for each in centroids],
        "NumPy product and argmax": [peers.numpy_search(each, sample) for each in centroids],
    }


def _is_nearest(material: Material, searches: list[peers.Search] | None) -> bool:
    """Check one peer on its subspaces, or, without any, our codec as a whole."""
    if searches is None:
        vectors, codec = material.vectors[:_CHECKED_ROWS], material.codec
        return is_nearest(vectors, codec, codec.encode(vectors))
    vectors, codec = material.part(len(searches))
    parts = material.subvectors(len(searches))[:, :_CHECKED_ROWS]
    codes = [search(part) for search, part in zip(searches, parts, strict=True)]
    return is_nearest(vectors[:_CHECKED_ROWS], codec, np.stack(codes, axis=1))


def _others(
    material: Material, searches: Mapping[str, list[peers.Search]], sizes: Sizes
) -> dict[str, Subject]:
    """Return the searches of others; a call is of some subspaces, and counts as such."""
    short, chunk, long = sizes.encode_batches
    count = sizes.table_subspaces
    quantizer = peers.quantizer(material.centroids(count))
    vectors = np.ascontiguousarray(material.vectors[:short, : count * sizes.width])
    share = count / sizes.num_subspaces
    found = {_COMPUTE_CODES: Subject(lambda _: quantizer.compute_codes(vectors), short * share)}
    for name, each in searches.items():
        found[name] = in_turns(each, material, long if name == _FLAT else chunk, sizes)
    return found


def _time(
    subjects: Mapping[str, Subject], others: Mapping[str, Subject], sizes: Sizes
) -> dict[str, Timings]:
    """Time all, our largest batch apart.

    Returns:
        Name → what was timed in turns with it, itself among them.
    """
    *short, long = subjects
    rest = {**others, **products(sizes)}
    seconds = time_each(
        {**{name: subjects[name] for name in short}, **rest},
        rounds=sizes.rounds,
        pause_s=sizes.pause_s,
    )
    beside = {name: repeated(rest[name], _REPEATS) for name in (_COMPUTE_CODES, _FLAT, *SGEMM)}
    apart = time_each(
        {**beside, long: subjects[long]}, rounds=sizes.long_rounds, pause_s=sizes.pause_s, warmups=0
    )
    return {name: apart if name == long else seconds for name in (*subjects, *rest)}


def _row(name: str, seconds: Timings, sizes: Sizes) -> tuple[Cell, ...]:
    taken = seconds[name]
    return (
        name,
        rate(taken, 1, "tokens/s"),
        rate(taken, _flops(sizes) / 1e9, "GFLOP/s"),
        _over(name, seconds, _flops(sizes)),
        quotient(seconds[_COMPUTE_CODES], taken),
        quotient(seconds[_FLAT], taken),
    )


def _flops(sizes: Sizes) -> float:
    """Return the work of a token."""
    return 2.0 * sizes.codebook_size * sizes.num_subspaces * sizes.width


def _over(name: str, seconds: Timings, flops: float = 1.0) -> Figure:
    """Return the rate of a subject whose unit is `flops`, over that of sgemm."""
    return quotient(flops * seconds[fastest(seconds, SGEMM)], seconds[name])


def _reached(timed: Mapping[str, Timings], mine: list[str], sizes: Sizes) -> dict[str, Figure]:
    smallest = timed[mine[0]]
    return {
        "compute_codes": quotient(smallest[_COMPUTE_CODES], smallest[mine[0]]),
        "flat": least(quotient(timed[name][_FLAT], timed[name][name]) for name in mine),
        "sgemm": least(_over(name, timed[name], _flops(sizes)) for name in mine),
    }


def _bars(data: str, timed: Mapping[str, Timings], sizes: Sizes) -> Iterator[Bar]:
    ceilings = products(sizes)
    for name, seconds in timed.items():
        if name not in ceilings:
            yield Bar("encode", name, data, rate(seconds[name], 1, ""))
    seconds = timed[SGEMM[0]]
    best = seconds[fastest(seconds, SGEMM)]
    yield Bar("encode", f"{CEILING}sgemm", data, rate(best, 1 / _flops(sizes), ""))
