"""Scores of vectors and centroids that are rounded to int8: the inner loops of `screened`.

One instruction adds 64 products of a uint8 and an int8 (32 without AVX-512): four times as many as
float32 has. A *step* is LANES centroids side by side, a *tile* STEPS steps, a *panel* TILES tiles.
Of the scores only the largest of each lane of a tile, and of a panel, leave the registers.

Does not: compile where `is_supported` says no.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from memstore.codec.kernels.vectors import BYTE, INT32, INT64, Vectors, constant, unwrap

_FEATURES = llvmlite.binding.get_host_cpu_features()
_HAS_512 = bool(_FEATURES.get("avx512vnni"))

LANES = 16 if _HAS_512 else 8
STEPS = 32  # fewer: more maxima to look through; more: more to score again where one is near
TILES = 2  # a panel is 20 KB at 16 wide: it stays in the L1 cache while a block passes
PANEL = TILES * STEPS * LANES
TOKENS = 4  # vectors scored at once: at 16 wide they, their maxima and a step fill the registers
LOWEST = -(1 << 30)  # where a centroid that is never to be found starts

_STEP_BYTES = 4 * LANES
_REGISTERS = 32 if _HAS_512 else 16

_Intrinsic = tuple[Any, Callable[..., Any]]


def is_supported() -> bool:
    """Return whether this machine has the instruction."""
    return _HAS_512 or bool(_FEATURES.get("avxvnni"))


def step_dtype(width: int) -> np.dtype[Any]:
    """Return the record of a step.

    Fields: `start` (LANES,) int32, what the sum of products starts from; `centroids`
    (ceil(width / 4), LANES, 4) uint8. A step of another width is another type, so that loops over
    the width are unrolled.
    """
    groups = -(-width // 4)
    return np.dtype([("start", "<i4", LANES), ("centroids", "u1", (groups, LANES, 4))])


def _num_groups(steps: Any) -> int:
    return int(steps.dtype.size) // _STEP_BYTES - 1


def _at(builder: Any, pointer: Any, offset: Any) -> Any:
    """Return the pointer to what lies `offset` bytes on."""
    return builder.gep(builder.bitcast(pointer, BYTE.as_pointer()), [offset])


def _emit_scores(vectors: Vectors, step: Any, tokens: list[Any], num_groups: int) -> list[Any]:
    """Score the centroids of a step for each token (pointers to bytes)."""
    builder = vectors.builder
    start, *centroids = (
        vectors.load(step, constant(i * _STEP_BYTES)) for i in range(1 + num_groups)
    )
    totals = [start] * len(tokens)
    for t, token in enumerate(tokens):
        for group in range(num_groups):
            four = builder.bitcast(_at(builder, token, constant(4 * group)), INT32.as_pointer())
            load = builder.load(four)
            load.align = 4
            totals[t] = vectors.add_dot(totals[t], centroids[group], vectors.splat(load))
    return totals


def _score_panel(
    _context: Any,
    tokens: Any,
    token: Any,
    steps: Any,
    panel: Any,
    num_panels: Any,
    maxima: Any,
    tops: Any,
) -> _Intrinsic:
    """Score TOKENS vectors against a panel; store the largest of each lane.

    Args (C-contiguous arrays):
        tokens: (n, 4 * groups) int8, the vectors.
        token: number of the first vector.
        steps: (num_panels * TILES * STEPS,) records of `step_dtype`.
        panel: number of the panel.
        num_panels: how many there are.
        maxima: (n, num_panels * TILES, LANES) int32, filled for these vectors and tiles.
        tops: (n, num_panels, LANES) int32, filled for these vectors and this panel.
    """
    intp = types.intp
    signature = types.void(tokens, intp, steps, intp, intp, maxima, tops)
    num_groups = _num_groups(steps)
    at_once = max(2, _REGISTERS // 2 // num_groups)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tokens, token, steps, panel, num_panels, maxima, tops = unwrap(
            context, builder, signature, arguments
        )
        vectors = Vectors(builder, INT32, LANES)
        rows = [builder.add(token, constant(t)) for t in range(TOKENS)]
        width = constant(4 * num_groups)
        pointers = [_at(builder, tokens, builder.mul(row, width)) for row in rows]
        places = [builder.add(builder.mul(row, num_panels), panel) for row in rows]
        size = constant(TILES * STEPS * _STEP_BYTES * (1 + num_groups))
        steps = _at(builder, steps, builder.mul(panel, size))
        for t in range(0, TOKENS, at_once):
            few = slice(t, t + at_once)
            _emit_panel(vectors, steps, num_groups, pointers[few], places[few], maxima, tops)
        return context.get_dummy_value()

    return signature, generate


def _emit_panel(
    vectors: Vectors,
    steps: Any,
    num_groups: int,
    tokens: list[Any],
    places: list[Any],
    maxima: Any,
    tops: Any,
) -> None:
    """Score a panel for tokens (pointers) that fit in registers; `places` index their tops."""
    builder = vectors.builder
    step_bytes, tiles = _STEP_BYTES * (1 + num_groups), constant(TILES)
    of_panel, of_tile = (
        [cgutils.alloca_once(builder, vectors.type) for _ in tokens] for _ in range(2)
    )
    _fill(vectors, of_panel)
    with cgutils.for_range(builder, tiles) as tile:
        _fill(vectors, of_tile)
        first = builder.mul(tile.index, constant(STEPS))
        with cgutils.for_range(builder, constant(STEPS)) as loop:
            step = builder.mul(builder.add(first, loop.index), constant(step_bytes))
            totals = _emit_scores(vectors, _at(builder, steps, step), tokens, num_groups)
            _raise(vectors, of_tile, totals)
        totals = [builder.load(slot) for slot in of_tile]
        _raise(vectors, of_panel, totals)
        for place, total in zip(places, totals, strict=True):
            at = builder.add(builder.mul(place, tiles), tile.index)
            vectors.store(total, maxima, builder.mul(at, constant(LANES)))
    for place, slot in zip(places, of_panel, strict=True):
        vectors.store(builder.load(slot), tops, builder.mul(place, constant(LANES)))


def _fill(vectors: Vectors, slots: list[Any]) -> None:
    for slot in slots:
        vectors.builder.store(vectors.fill(LOWEST), slot)


def _raise(vectors: Vectors, slots: list[Any], values: list[Any]) -> None:
    """Replace what is in each slot by its value where that is larger."""
    for slot, value in zip(slots, values, strict=True):
        vectors.builder.store(vectors.larger(value, vectors.builder.load(slot)), slot)


def _step_mask(
    _context: Any, tokens: Any, token: Any, steps: Any, step: Any, limit: Any
) -> _Intrinsic:
    """Score one vector against a step; return one bit for each lane of at least `limit`."""
    signature = types.int64(tokens, types.intp, steps, types.intp, types.int32)
    num_groups = _num_groups(steps)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tokens, token, steps, step, limit = unwrap(context, builder, signature, arguments)
        vectors = Vectors(builder, INT32, LANES)
        row = _at(builder, tokens, builder.mul(token, constant(4 * num_groups)))
        pointer = _at(builder, steps, builder.mul(step, constant(_STEP_BYTES * (1 + num_groups))))
        (total,) = _emit_scores(vectors, pointer, [row], num_groups)
        return builder.zext(vectors.mask(">=", total, vectors.splat(limit)), INT64)

    return signature, generate


def _largest(_context: Any, scores: Any, first: Any, count: Any) -> _Intrinsic:
    """Return the largest of `count` vectors of LANES int32 from number `first` on."""
    signature = types.int32(scores, types.intp, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scores, first, count = unwrap(context, builder, signature, arguments)
        vectors = Vectors(builder, INT32, LANES)
        slot = cgutils.alloca_once(builder, vectors.type)
        _fill(vectors, [slot])
        with cgutils.for_range(builder, count) as loop:
            at = builder.mul(builder.add(first, loop.index), constant(LANES))
            _raise(vectors, [slot], [vectors.load(scores, at)])
        return vectors.largest(builder.load(slot))

    return signature, generate


def _reaches(_context: Any, scores: Any, number: Any, limit: Any) -> _Intrinsic:
    """Return whether one of the LANES int32 of vector `number` is at least `limit`."""
    signature = types.boolean(scores, types.intp, types.int32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scores, number, limit = unwrap(context, builder, signature, arguments)
        vectors = Vectors(builder, INT32, LANES)
        scored = vectors.load(scores, builder.mul(number, constant(LANES)))
        mask = vectors.mask(">=", scored, vectors.splat(limit))
        return builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0))

    return signature, generate


def _lowest_bit(_context: Any, mask: Any) -> _Intrinsic:
    """Return the number of the lowest bit that is set."""
    signature = types.int64(types.int64)

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return signature, generate


score_panel = intrinsic(_score_panel)
step_mask = intrinsic(_step_mask)
largest = intrinsic(_largest)
reaches = intrinsic(_reaches)
lowest_bit = intrinsic(_lowest_bit)
