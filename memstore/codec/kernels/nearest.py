"""Exact nearest-centroid search for the CPU: a matrix product whose scores never reach memory.

The score of centroid c for vector x is x.c - |c|^2/2; the largest wins. As in a good matrix
product, a block of TOKENS vectors by STRIDE centroids is summed in registers; then, instead of
being written out, it is compared with the best score of each vector so far. Only when a tile of
TILE centroids beats it (a few times in a search) is the tile's scratch searched for the place.

The block is written as LLVM vectors because Numba's loops do not keep a two-dimensional block in
registers (measured: 4.5 times slower). Every score is the same chain of fused multiply-adds
whatever the block, batch or thread, so codes do not depend on them; equal scores go to the lowest
index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from memstore.codec.kernels.compiler import compiled
from memstore.codec.kernels.vectors import INT64, Vectors, constant, unwrap

TILE = 256  # centroids; 17 KB of them at 16 wide: they stay in the L1 cache while a block passes
TOKENS = 6
BLOCK = 32 * TOKENS  # vectors that share one pass over a subspace's centroids
SPAN = 4 * BLOCK  # vectors that pass through all subspaces before the next do: they stay in the L2

# TOKENS x VECTORS accumulators and VECTORS centroid vectors fill the register file: 32 x 16 floats
# with AVX-512, 16 x 8 with AVX2, and as much with NEON. Any choice runs on any machine.
_LANES, _VECTORS = (16, 4) if llvmlite.binding.get_host_cpu_features().get("avx512f") else (8, 2)
_STRIDE = _LANES * _VECTORS

_MASK = ir.IntType(_LANES)


def _score_tile(
    _context: Any,
    packed: Any,
    packed_at: Any,
    tiles: Any,
    tile_at: Any,
    width: Any,
    best: Any,
    index: Any,
    best_at: Any,
    first: Any,
    scores: Any,
) -> tuple[Any, Callable[..., Any]]:
    """Bring the best score of TOKENS vectors, and where it is, up to date with one more tile.

    Args (flat arrays, float32 but for `index`, and where in them to start):
        packed: (width, TOKENS), the vectors, transposed.
        tiles: (1 + width, TILE): -|c|^2/2, then the centroids, transposed.
        best: (TOKENS,), the best score of each vector so far.
        index: (TOKENS,) int64, its centroid.
        first: the number of the tile's first centroid.
        scores: (TOKENS, TILE), scratch.
    """
    signature = types.void(
        packed,
        types.intp,
        tiles,
        types.intp,
        types.intp,
        best,
        index,
        types.intp,
        types.intp,
        scores,
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        packed, packed_at, tiles, tile_at, width, best, index, best_at, first, scores = unwrap(
            context, builder, signature, arguments
        )
        packed, tile = builder.gep(packed, [packed_at]), builder.gep(tiles, [tile_at])
        vectors = Vectors(builder, ir.FloatType(), _LANES)
        tops = _emit_scores(vectors, packed, tile, width, scores)
        for t in range(TOKENS):
            at = builder.add(best_at, constant(t))
            row = builder.gep(scores, [constant(t * TILE)])
            slots = builder.gep(best, [at]), builder.gep(index, [at])
            _emit_update(vectors, tops[t], row, first, *slots)
        return context.get_dummy_value()

    return signature, generate


def _emit_scores(vectors: Vectors, packed: Any, tile: Any, width: Any, scores: Any) -> list[Any]:
    """Fill `scores`; return for each vector the largest scores, by lane."""
    builder = vectors.builder
    lowest = vectors.fill(float("-inf"))
    tops, *sums = (
        [cgutils.alloca_once(builder, vectors.type) for _ in range(TOKENS)]
        for _ in range(1 + _VECTORS)
    )
    for top in tops:
        builder.store(lowest, top)
    with cgutils.for_range(builder, constant(TILE // _STRIDE)) as step:
        column = builder.mul(step.index, constant(_STRIDE))
        columns = [builder.add(column, constant(v * _LANES)) for v in range(_VECTORS)]
        for v in range(_VECTORS):
            half_norms = vectors.load(tile, columns[v])
            for t in range(TOKENS):
                builder.store(half_norms, sums[v][t])
        with cgutils.for_range(builder, width) as axis:
            row = builder.mul(builder.add(axis.index, constant(1)), constant(TILE))
            centroids = [vectors.load(tile, builder.add(row, columns[v])) for v in range(_VECTORS)]
            for t in range(TOKENS):
                at = builder.add(builder.mul(axis.index, constant(TOKENS)), constant(t))
                value = vectors.splat(builder.load(builder.gep(packed, [at])))
                for v in range(_VECTORS):
                    total = vectors.multiply_add(value, centroids[v], builder.load(sums[v][t]))
                    builder.store(total, sums[v][t])
        for t in range(TOKENS):
            for v in range(_VECTORS):
                total = builder.load(sums[v][t])
                vectors.store(total, scores, builder.add(constant(t * TILE), columns[v]))
                builder.store(vectors.larger(total, builder.load(tops[t])), tops[t])
    return [builder.load(top) for top in tops]


def _emit_update(
    vectors: Vectors, top: Any, scores: Any, first: Any, best: Any, index: Any
) -> None:
    """If a score of the tile is larger than `best`, set it and the index where it is first."""
    builder = vectors.builder
    none = ir.Constant(_MASK, 0)
    beats = vectors.mask(">", top, vectors.splat(builder.load(best)))
    with builder.if_then(builder.icmp_unsigned("!=", beats, none), likely=False):
        value = vectors.largest(top)
        builder.store(value, best)
        wanted = vectors.splat(value)
        for start in range(TILE - _LANES, -1, -_LANES):  # backwards: the lowest index is kept
            equal = vectors.mask("==", vectors.load(scores, constant(start)), wanted)
            lane = builder.zext(builder.cttz(equal, ir.Constant(ir.IntType(1), 0)), INT64)
            place = builder.add(builder.add(first, constant(start)), lane)
            is_here = builder.icmp_unsigned("!=", equal, none)
            builder.store(builder.select(is_here, place, builder.load(index)), index)


score_tile = intrinsic(_score_tile)


@compiled
def nearest(
    vectors: np.ndarray, tiles: np.ndarray, codes: np.ndarray, start: int, stop: int
) -> bool:
    """Search items [start, stop) of the grid (ceil(N / SPAN) spans of vectors, M subspaces).

    Args:
        vectors: (N, M, width) float32.
        tiles: (M, ceil(K / TILE), 1 + width, TILE) float32, see `score_tile`.
        codes: (N, at least M) uint8 or uint16, filled.
        start: first item.
        stop: after the last item.

    Returns:
        False if a value was not finite; then `codes` is not to be used.
    """
    num_vectors, num_subspaces, width = vectors.shape
    _, num_tiles, _, _ = tiles.shape
    flat_tiles = tiles.reshape(tiles.size)
    packed = np.zeros((BLOCK // TOKENS, width, TOKENS), np.float32)
    flat_packed = packed.reshape(packed.size)
    best = np.empty(BLOCK, np.float32)
    index = np.empty(BLOCK, np.int64)
    scores = np.empty(TOKENS * TILE, np.float32)
    is_finite = True
    for item in range(start, stop):
        m = item % num_subspaces
        span = item // num_subspaces * SPAN
        for first in range(span, min(span + SPAN, num_vectors), BLOCK):
            count = min(BLOCK, num_vectors - first)
            for i in range(count):
                for d in range(width):
                    value = vectors[first + i, m, d]
                    is_finite &= np.isfinite(value)
                    packed[i // TOKENS, d, i % TOKENS] = value
            best[:] = -np.inf
            index[:] = 0
            for tile in range(num_tiles):
                tile_at = (m * num_tiles + tile) * (1 + width) * TILE
                for token in range(0, count, TOKENS):
                    score_tile(
                        flat_packed, token * width, flat_tiles, tile_at, width,
                        best, index, token, tile * TILE, scores,
                    )  # fmt: skip
            for i in range(count):
                codes[first + i, m] = index[i]
    return is_finite
