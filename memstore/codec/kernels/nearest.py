"""Exact nearest-centroid search for the CPU: a matrix product whose scores never reach memory.

The score of centroid c for vector x is x.c - |c|^2/2; the largest wins. As in a good matrix
product, a block of TOKENS vectors by STRIDE centroids is summed in registers; then, instead of
being written out, it is compared with the best score of each vector so far. Only when a tile of
TILE centroids beats it (a few times in a search) is the tile's scratch scanned.

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
BLOCK = 32 * TOKENS  # vectors that share one pass over the codebook

# TOKENS x VECTORS accumulators and VECTORS centroid vectors fill the register file: 32 x 16 floats
# with AVX-512, 16 x 8 with AVX2, and as much with NEON. Any choice runs on any machine.
_LANES, _VECTORS = (16, 4) if llvmlite.binding.get_host_cpu_features().get("avx512f") else (8, 2)
_STRIDE = _LANES * _VECTORS

_FLOAT = ir.FloatType()
_INT = ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, _LANES)


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

    def splat(self, base: Any, offset: Any) -> Any:
        scalar = self.builder.load(self.builder.gep(base, [offset]))
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return self.builder.call(self._fma, [a, b, c])

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def any_larger(self, a: Any, b: Any) -> Any:
        mask = self.builder.bitcast(self.builder.fcmp_ordered(">", a, b), ir.IntType(_LANES))
        return self.builder.icmp_unsigned("!=", mask, ir.Constant(ir.IntType(_LANES), 0))

    def largest(self, vector: Any) -> Any:
        """Reduce to one float by halves."""
        lanes = ir.VectorType(ir.IntType(32), _LANES)
        half = _LANES // 2
        while half:
            upper = ir.Constant(lanes, [(lane + half) % _LANES for lane in range(_LANES)])
            vector = self.larger(vector, self.builder.shuffle_vector(vector, vector, upper))
            half //= 2
        return self.builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

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
    best_at: Any,
    scores: Any,
) -> tuple[Any, Callable[..., Any]]:
    """Score TOKENS vectors against one tile; bit t of the result: vector t met a new best score.

    Args (flat float32 arrays, and where in them to start):
        packed: (width, TOKENS), the vectors, transposed.
        tiles: (1 + width, TILE): -|c|^2/2, then the centroids, transposed.
        best: (TOKENS,), the best score of each vector so far, brought up to date.
        scores: (TOKENS, TILE), scratch that is left holding the scores.
    """
    signature = types.int64(
        packed, types.intp, tiles, types.intp, types.intp, best, types.intp, scores
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [
            context.make_array(kind)(context, builder, value).data
            if isinstance(kind, types.Array)
            else value
            for kind, value in zip(signature.args, arguments, strict=True)
        ]
        packed, packed_at, tiles, tile_at, width, best, best_at, scores = arrays
        packed, tiles = builder.gep(packed, [packed_at]), builder.gep(tiles, [tile_at])
        return _emit_block(builder, packed, tiles, width, builder.gep(best, [best_at]), scores)

    return signature, generate


def _emit_block(builder: Any, packed: Any, tile: Any, width: Any, best: Any, scores: Any) -> Any:
    vectors = _Vectors(builder)
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
                value = vectors.splat(packed, at)
                for v in range(_VECTORS):
                    total = vectors.multiply_add(value, centroids[v], builder.load(sums[t][v]))
                    builder.store(total, sums[t][v])
        for t in range(TOKENS):
            for v in range(_VECTORS):
                total = builder.load(sums[t][v])
                vectors.store(total, scores, builder.add(_int(t * TILE), columns[v]))
                builder.store(vectors.larger(total, builder.load(tops[t])), tops[t])
    flags = _int(0)
    for t in range(TOKENS):
        top = builder.load(tops[t])
        beaten = vectors.any_larger(top, vectors.splat(best, _int(t)))
        with builder.if_then(beaten, likely=False):
            builder.store(vectors.largest(top), builder.gep(best, [_int(t)]))
        flags = builder.or_(flags, builder.shl(builder.zext(beaten, _INT), _int(t)))
    return flags


score_tile = intrinsic(_score_tile)


@compiled
def first_equal(scores: np.ndarray, value: float) -> int:
    """Return where the value first is in (TILE,) scores; looked for 32 at a time, in vectors."""
    for start in range(0, TILE, 32):
        is_here = False
        for k in range(start, start + 32):
            is_here |= scores[k] == value
        if is_here:
            for k in range(start, start + 32):
                if scores[k] == value:
                    return k
    return 0


@compiled
def nearest(
    vectors: np.ndarray, tiles: np.ndarray, codes: np.ndarray, start: int, stop: int
) -> bool:
    """Search items [start, stop) of the grid (M subspaces, ceil(N / BLOCK) blocks of vectors).

    Args:
        vectors: (N, M, width) float32.
        tiles: (M, ceil(K / TILE), 1 + width, TILE) float32, see `score_tile`.
        codes: (N, at least M) uint8 or uint16, filled.
        start: first item.
        stop: after the last item.

    Returns:
        False if a value was not finite; then `codes` is not to be used.
    """
    num_vectors, _, width = vectors.shape
    _, num_tiles, _, _ = tiles.shape
    num_blocks = (num_vectors + BLOCK - 1) // BLOCK
    flat_tiles = tiles.reshape(tiles.size)
    packed = np.zeros((BLOCK // TOKENS, width, TOKENS), np.float32)
    flat_packed = packed.reshape(packed.size)
    best = np.empty(BLOCK, np.float32)
    index = np.empty(BLOCK, np.int64)
    scores = np.empty((TOKENS, TILE), np.float32)
    flat_scores = scores.reshape(scores.size)
    is_finite = True
    for item in range(start, stop):
        m = item // num_blocks
        first = (item % num_blocks) * BLOCK
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
            for group in range((count + TOKENS - 1) // TOKENS):
                token = group * TOKENS
                flags = score_tile(
                    flat_packed, token * width, flat_tiles, tile_at, width, best, token, flat_scores
                )
                while flags:
                    t = 0
                    while not (flags >> t) & 1:
                        t += 1
                    flags &= flags - 1
                    index[token + t] = tile * TILE + first_equal(scores[t], best[token + t])
        for i in range(count):
            codes[first + i, m] = index[i]
    return is_finite
