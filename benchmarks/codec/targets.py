"""What the codec is to reach, and what it has reached: of both kinds of data, the worse counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.codec.parts import Part
from benchmarks.harness import Cell, Figure, Table


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio that is to be at least, or at most, so much.

    Attributes:
        name: in words.
        least: what is asked for.
        aim: what is hoped for.
        is_error: small is good.
    """

    name: str
    least: float
    aim: float
    is_error: bool = False


TARGETS = {
    "compute_codes": Target("exact encode, times faiss compute_codes, smallest batch", 15, 40),
    "flat": Target("exact encode, times a flat index a subspace, worst batch", 1, 1.5),
    "sgemm": Target("exact encode, rate over sgemm's, worst batch", 0.6, 1),
    "graph": Target("fast encode, times faiss HNSW of as little loss, largest batch", 2, 5),
    "decode": Target("decode to bfloat16, times faiss decode, worst batch", 4, 8),
    "stages": Target("decode, token predictor and folded rotation over none, worst", 0.5, 0.8),
    "training": Target("training of one subspace, times faiss Kmeans", 2, 8),
    "training error": Target("its held-out error over faiss's", 1.01, 1, is_error=True),
    "plain error": Target("held-out error, plain, over faiss PQ's", 1, 0.97, is_error=True),
    "rotated error": Target("held-out error, opq, over faiss OPQ's", 1, 0.97, is_error=True),
}
_DATA = "normals", "activations"


def table(parts: Iterable[Part]) -> Table:
    """Return all targets, with what was reached on each kind of data."""
    found: dict[str, dict[str, Figure]] = {}
    for part in parts:
        for key, figures in part.targets.items():
            found.setdefault(key, {}).update(figures)
    rows: list[tuple[Cell, ...]] = []
    for key, target in TARGETS.items():
        limits = (f"{'≤' if target.is_error else '≥'} {limit:g}" for limit in _limits(target))
        figures = found[key]
        cells = (figures.get(data, "") for data in _DATA)
        rows.append((target.name, *limits, *cells, verdict(target, figures.values())))
    columns = ("what", "asked", "aim", *(f"on {data}" for data in _DATA), "reached")
    return Table(title="To reach", columns=columns, rows=rows)


def verdict(target: Target, figures: Iterable[Figure]) -> str:
    """Say what the worst of the figures reaches: "aim", "asked" or "no"."""
    sign = -1 if target.is_error else 1
    worst = min(sign * figure.value for figure in figures)
    least, aim = (sign * limit for limit in _limits(target))
    return "aim" if worst >= aim else "asked" if worst >= least else "no"


def _limits(target: Target) -> tuple[float, float]:
    return target.least, target.aim
