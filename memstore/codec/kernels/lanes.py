"""The inner loops of the probed search: sums of products of 16-bit numbers, 32 bits wide.

A row is a vector of `pairs` 32-bit words, each two 16-bit numbers; a tile is (1 + pairs, TILE)
words: what the sum for each column starts at, then the columns, transposed. Sums wrap around beyond
32 bits; the caller chooses numbers that do not reach that. Arrays are int32 and flat; an argument
`..._at` says where in one to start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from memstore.codec.kernels.vectors import INT32, INT64, Vectors, constant, unwrap

TILE = 64  # columns: with AVX-512, four vectors of sums and four of columns
TOKENS = 6  # rows that `score_rows` scores at once: with AVX-512, 24 vectors of sums
LOWEST = -(1 << 31)

# How many 32-bit lanes, how many vectors of columns beside TOKENS of them fill the register file,
# and the instruction that adds products of pairs. LLVM fuses it with the sum where the CPU can
# (VNNI). On other machines shifts and multiplications do the same.
_FEATURES = llvmlite.binding.get_host_cpu_features()
_LANES, _VECTORS, _MULTIPLY_PAIRS = (
    (16, 4, "llvm.x86.avx512.pmaddw.d.512")
    if _FEATURES.get("avx512bw")
    else (8, 2, "llvm.x86.avx2.pmadd.wd")
    if _FEATURES.get("avx2")
    else (4, 4, None)
)
_VECTOR = ir.VectorType(INT32, _LANES)
_MASK = ir.IntType(_LANES)

_Emit = Callable[..., list[Any]]
_Intrinsic = tuple[Any, Callable[..., Any]]


def _with_body(signature: Any, emit: _Emit) -> _Intrinsic:
    """Make an intrinsic of `emit(vectors, *arguments)`, which returns a list of results."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors = Vectors(builder, INT32, _LANES)
        results = emit(vectors, *unwrap(context, builder, signature, arguments))
        if not results:
            return context.get_dummy_value()
        if len(results) == 1:
            return results[0]
        return context.make_tuple(builder, signature.return_type, results)

    return signature, generate


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def _is_any(builder: Any, mask: Any) -> Any:
    return builder.icmp_unsigned("!=", mask, ir.Constant(_MASK, 0))


def _smaller(vectors: Vectors, a: Any, b: Any) -> Any:
    return vectors.builder.select(vectors.builder.icmp_signed("<", a, b), a, b)


def _multiply_add(vectors: Vectors, a: Any, b: Any, total: Any) -> Any:
    """Add to each lane of `total` the products of the two halves of `a` and `b`."""
    builder = vectors.builder
    if _MULTIPLY_PAIRS:
        pairs = ir.VectorType(ir.IntType(16), 2 * _LANES)
        halves = [builder.bitcast(vector, pairs) for vector in (a, b)]
        return builder.add(total, _call(builder, _MULTIPLY_PAIRS, _VECTOR, *halves))
    shift = vectors.fill(16)
    high = builder.mul(builder.ashr(a, shift), builder.ashr(b, shift))
    a, b = (builder.ashr(builder.shl(vector, shift), shift) for vector in (a, b))
    return builder.add(total, builder.add(high, builder.mul(a, b)))


def _emit_sums(
    vectors: Vectors, rows: Any, tile: Any, pairs: Any, num_rows: int, columns: list[Any]
) -> list[list[Any]]:
    """Return for each row the sums of the columns that start at `columns`."""
    builder = vectors.builder
    slots = [[cgutils.alloca_once(builder, _VECTOR) for _ in columns] for _ in range(num_rows)]
    for v, column in enumerate(columns):
        start = vectors.load(tile, column)
        for row in slots:
            builder.store(start, row[v])
    with cgutils.for_range(builder, pairs) as pair:
        depth = builder.mul(builder.add(pair.index, constant(1)), constant(TILE))
        words = [vectors.load(tile, builder.add(depth, column)) for column in columns]
        for r, row in enumerate(slots):
            at = builder.add(builder.mul(pairs, constant(r)), pair.index)
            value = vectors.splat(builder.load(builder.gep(rows, [at])))
            for v, word in enumerate(words):
                total = _multiply_add(vectors, value, word, builder.load(row[v]))
                builder.store(total, row[v])
    return [[builder.load(slot) for slot in row] for row in slots]


def _score_rows(
    _context: Any, rows: Any, tiles: Any, tile_at: Any, pairs: Any, out: Any, at: Any, step: Any
) -> _Intrinsic:
    """Score TOKENS rows against one tile; those of row t are written from `at + t * step` on."""
    signature = types.void(rows, tiles, types.intp, types.intp, out, types.intp, types.intp)

    def emit(
        vectors: Vectors,
        rows: Any,
        tiles: Any,
        tile_at: Any,
        pairs: Any,
        out: Any,
        at: Any,
        step: Any,
    ) -> list[Any]:
        builder = vectors.builder
        tile, target = builder.gep(tiles, [tile_at]), builder.gep(out, [at])
        with cgutils.for_range(builder, constant(TILE // (_LANES * _VECTORS))) as block:
            first = builder.mul(block.index, constant(_LANES * _VECTORS))
            columns = [builder.add(first, constant(v * _LANES)) for v in range(_VECTORS)]
            for t, sums in enumerate(_emit_sums(vectors, rows, tile, pairs, TOKENS, columns)):
                start = builder.mul(step, constant(t))
                for total, column in zip(sums, columns, strict=True):
                    vectors.store(total, target, builder.add(start, column))
        return []

    return _with_body(signature, emit)


def _scan_tile(
    _context: Any, rows: Any, row_at: Any, tiles: Any, tile_at: Any, pairs: Any, best: Any, out: Any
) -> _Intrinsic:
    """Score one row against one tile into `out` (TILE,); return whether one is at least `best`."""
    signature = types.boolean(
        rows, types.intp, tiles, types.intp, types.intp, types.int32, out
    )  # fmt: skip

    def emit(
        vectors: Vectors,
        rows: Any,
        row_at: Any,
        tiles: Any,
        tile_at: Any,
        pairs: Any,
        best: Any,
        out: Any,
    ) -> list[Any]:
        builder = vectors.builder
        row, tile = builder.gep(rows, [row_at]), builder.gep(tiles, [tile_at])
        columns = [constant(start) for start in range(0, TILE, _LANES)]
        (sums,) = _emit_sums(vectors, row, tile, pairs, 1, columns)
        top = sums[0]
        for total, column in zip(sums, columns, strict=True):
            vectors.store(total, out, column)
            top = vectors.larger(total, top)
        return [_is_any(builder, vectors.mask(">=", top, vectors.splat(best)))]

    return _with_body(signature, emit)


def _largest(_context: Any, scores: Any) -> _Intrinsic:
    """Return the largest of TILE scores and the first column that has it."""
    signature = types.Tuple((types.int32, types.intp))(scores)

    def emit(vectors: Vectors, scores: Any) -> list[Any]:
        builder = vectors.builder
        parts = [vectors.load(scores, constant(start)) for start in range(0, TILE, _LANES)]
        top = parts[0]
        for part in parts[1:]:
            top = vectors.larger(part, top)
        value = vectors.largest(top)
        wanted, column = vectors.splat(value), constant(0)
        for v in reversed(range(len(parts))):  # backwards: the first is kept
            equal = vectors.mask("==", parts[v], wanted)
            lane = _call(
                builder, f"llvm.cttz.i{_LANES}", _MASK, equal, ir.Constant(ir.IntType(1), 0)
            )
            place = builder.add(builder.zext(lane, INT64), constant(v * _LANES))
            column = builder.select(_is_any(builder, equal), place, column)
        return [value, column]

    return _with_body(signature, emit)


def _fold(
    _context: Any, scores: Any, scores_at: Any, num: Any, tops: Any, num_tops: Any
) -> _Intrinsic:
    """Set top k to the largest of scores k, k + num_tops, ...; return the least and largest top.

    `num` is a multiple of `num_tops`, which is a multiple of TILE.
    """
    signature = types.UniTuple(types.int32, 2)(
        scores, types.intp, types.intp, tops, types.intp
    )  # fmt: skip

    def emit(
        vectors: Vectors, scores: Any, scores_at: Any, num: Any, tops: Any, num_tops: Any
    ) -> list[Any]:
        builder = vectors.builder
        first = builder.gep(scores, [scores_at])
        low, high, top = (cgutils.alloca_once(builder, _VECTOR) for _ in range(3))
        builder.store(vectors.fill(~LOWEST), low)
        builder.store(vectors.fill(LOWEST), high)
        with cgutils.for_range(builder, builder.udiv(num_tops, constant(_LANES))) as step:
            column = builder.mul(step.index, constant(_LANES))
            builder.store(vectors.load(first, column), top)
            with cgutils.for_range_slice(builder, num_tops, num, num_tops, INT64) as (row, _):
                other = vectors.load(first, builder.add(row, column))
                builder.store(vectors.larger(other, builder.load(top)), top)
            part = builder.load(top)
            vectors.store(part, tops, column)
            builder.store(vectors.larger(part, builder.load(high)), high)
            builder.store(_smaller(vectors, part, builder.load(low)), low)
        least = _call(builder, f"llvm.vector.reduce.smin.v{_LANES}i32", INT32, builder.load(low))
        return [least, vectors.largest(builder.load(high))]

    return _with_body(signature, emit)


def _count(_context: Any, scores: Any, num: Any, least: Any) -> _Intrinsic:
    """Return how many of `num` scores, a multiple of TILE, are at least `least`."""
    signature = types.intp(scores, types.intp, types.int32)

    def emit(vectors: Vectors, scores: Any, num: Any, least: Any) -> list[Any]:
        builder = vectors.builder
        wanted, total = vectors.splat(least), cgutils.alloca_once(builder, _VECTOR)
        builder.store(vectors.fill(0), total)
        with cgutils.for_range(builder, builder.udiv(num, constant(TILE))) as step:
            tile = builder.mul(step.index, constant(TILE))
            for start in range(0, TILE, _LANES):
                part = vectors.load(scores, builder.add(tile, constant(start)))
                minus_ones = builder.sext(builder.icmp_signed(">=", part, wanted), _VECTOR)
                builder.store(builder.sub(builder.load(total), minus_ones), total)
        name = f"llvm.vector.reduce.add.v{_LANES}i32"
        return [builder.zext(_call(builder, name, INT32, builder.load(total)), INT64)]

    return _with_body(signature, emit)


def _collect(
    _context: Any, scores: Any, scores_at: Any, num: Any, least: Any, places: Any
) -> _Intrinsic:
    """Fill `places` with the places of the scores that are at least `least`; return how many.

    `num` is a multiple of TILE; places count from `scores_at`.
    """
    signature = types.intp(scores, types.intp, types.intp, types.int32, places)

    def emit(
        vectors: Vectors, scores: Any, scores_at: Any, num: Any, least: Any, places: Any
    ) -> list[Any]:
        builder = vectors.builder
        first, wanted = builder.gep(scores, [scores_at]), vectors.splat(least)
        found, here = cgutils.alloca_once(builder, INT64), cgutils.alloca_once(builder, _VECTOR)
        builder.store(constant(0), found)
        builder.store(ir.Constant(_VECTOR, list(range(_LANES))), here)
        with cgutils.for_range(builder, builder.udiv(num, constant(_LANES))) as step:
            part = vectors.load(first, builder.mul(step.index, constant(_LANES)))
            bits, before = builder.icmp_signed(">=", part, wanted), builder.load(found)
            target, name = builder.gep(places, [before]), f"llvm.masked.compressstore.v{_LANES}i32"
            _call(builder, name, ir.VoidType(), builder.load(here), target, bits)
            mask = builder.bitcast(bits, _MASK)
            num_set = builder.zext(_call(builder, f"llvm.ctpop.i{_LANES}", _MASK, mask), INT64)
            builder.store(builder.add(before, num_set), found)
            builder.store(builder.add(builder.load(here), vectors.fill(_LANES)), here)
        return [builder.load(found)]

    return _with_body(signature, emit)


score_rows = intrinsic(_score_rows)
scan_tile = intrinsic(_scan_tile)
largest = intrinsic(_largest)
fold = intrinsic(_fold)
count = intrinsic(_count)
collect = intrinsic(_collect)
