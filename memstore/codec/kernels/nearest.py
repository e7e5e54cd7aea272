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

TILE = 256  # centroids; 17 KB of them at 16 wide: they stay in the L1 cache while a block passes
TOKENS = 6
BLOCK = 32 * TOKENS  # vectors that share one pass over a subspace's centroids
SPAN = 4 * BLOCK  # vectors that pass through all subspaces before the next do: they stay in the L2

# TOKENS x VECTORS accumulators and VECTORS centroid vectors fill the register file: 32 x 16 floats
# with AVX-512, 16 x 8 with AVX2, and as much with NEON. Any choice runs on any machine.
_LANES, _VECTORS = (16, 4) if llvmlite.binding.get_host_cpu_features().get("avx512f") else (8, 2)
_STRIDE = _LANES * _VECTORS

_FLOAT = ir.FloatType()
_INT = ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, _LANES)
_MASK = ir.IntType(_LANES)


class _Vectors:
    """The few vector instructions that the block is made of."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        signature = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        self._fma = cgutils.get_or_insert_function(
            builder.module, signature, f"llvm.fmuladd.v{_LANES}f32"
        )

    def load(self, base: Any, offset: Any) -> Any:
        load = self.builder.load(self._at(base, offset))
        load.align = 4
        return load

    def store(self, value: Any, base: Any, offset: Any) -> None:
        self.builder.store(value, self._at(base, offset)).align = 4

    def splat(self, scalar: Any) -> Any:
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return self.builder.call(self._fma, [a, b, c])

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def mask(self, comparison: str, a: Any, b: Any) -> Any:
        """Return one bit a lane."""
        lanes = self.builder.fcmp_ordered(comparison, a, b)
        return self.builder.bitcast(lanes, _MASK)

    def largest(self, vector: Any) -> Any:
        """Reduce to one float by halves."""
        lanes = ir.VectorType(ir.IntType(32), _LANES)
        half = _LANES // 2
        while half:
            upper = ir.Constant(lanes, [(lane + half) % _LANES for lane in range(_LANES)])
            vector = self.larger(vector, self.builder.shuffle_vector(vector, vector, upper))
            half //= 2
        return self.builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    def lowest_bit(self, mask: Any) -> Any:
        """Return the number of the lowest bit that is set."""
        signature = ir.FunctionType(_MASK, [_MASK, ir.IntType(1)])
        count = cgutils.get_or_insert_function(
            self.builder.module, signature, f"llvm.cttz.i{_LANES}"
        )
        return self.builder.call(count, [mask, ir.Constant(ir.IntType(1), 0)])

    def _at(self, base: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(base, [offset]), _VECTOR.as_pointer())


def _int(value: int) -> Any:
    return ir.Constant(_INT, value)


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
        packed, packed_at, tiles, tile_at, width, best, index, best_at, first, scores = (
            context.make_array(kind)(context, builder, value).data
            if isinstance(kind, types.Array)
            else value
            for kind, value in zip(signature.args, arguments, strict=True)
        )
        packed, tile = builder.gep(packed, [packed_at]), builder.gep(tiles, [tile_at])
        vectors = _Vectors(builder)
        tops = _emit_scores(vectors, packed, tile, width, scores)
        for t in range(TOKENS):
            at = builder.add(best_at, _int(t))
            row = builder.gep(scores, [_int(t * TILE)])
            slots = builder.gep(best, [at]), builder.gep(index, [at])
            _emit_update(vectors, tops[t], row, first, *slots)
        return context.get_dummy_value()

    return signature, generate


def _emit_scores(vectors: _Vectors, packed: Any, tile: Any, width: Any, scores: Any) -> list[Any]:
    """Fill `scores`; return for each vector the largest scores, by lane."""
    builder = vectors.builder
    lowest = ir.Constant(_VECTOR, [float("-inf")] * _LANES)
    tops = [cgutils.alloca_once(builder, _VECTOR) for _ in range(TOKENS)]
    sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in range(_VECTORS)] for _ in range(TOKENS)]
    for top in tops:
        builder.store(lowest, top)
    with cgutils.for_range(builder, _int(TILE // _STRIDE)) as step:
        column = builder.mul(step.index, _int(_STRIDE))
        columns = [builder.add(column, _int(v * _LANES)) for v in range(_VECTORS)]
        for v in range(_VECTORS):
            half_norms = vectors.load(tile, columns[v])
            for t in range(TOKENS):
                builder.store(half_norms, sums[t][v])
        with cgutils.for_range(builder, width) as axis:
            row = builder.mul(builder.add(axis.index, _int(1)), _int(TILE))
            centroids = [vectors.load(tile, builder.add(row, columns[v])) for v in range(_VECTORS)]
            for t in range(TOKENS):
                at = builder.add(builder.mul(axis.index, _int(TOKENS)), _int(t))
                value = vectors.splat(builder.load(builder.gep(packed, [at])))
                for v in range(_VECTORS):
                    total = vectors.multiply_add(value, centroids[v], builder.load(sums[t][v]))
                    builder.store(total, sums[t][v])
        for t in range(TOKENS):
            for v in range(_VECTORS):
                total = builder.load(sums[t][v])
                vectors.store(total, scores, builder.add(_int(t * TILE), columns[v]))
                builder.store(vectors.larger(total, builder.load(tops[t])), tops[t])
    return [builder.load(top) for top in tops]


def _emit_update(
    vectors: _Vectors, top: Any, scores: Any, first: Any, best: Any, index: Any
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
            equal = vectors.mask("==", vectors.load(scores, _int(start)), wanted)
            lane = builder.zext(vectors.lowest_bit(equal), _INT)
            place = builder.add(builder.add(first, _int(start)), lane)
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
