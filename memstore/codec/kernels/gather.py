"""`gather` and `gather_sum`: centroids from their tables to the caller's buffer, at memory's speed.

A codebook of 65,536 centroids a subspace is far larger than the caches, and than what the processor
keeps the page addresses of; so a gather waits for memory and for page tables. What helps:

- centroids are asked for long before they are copied;
- work is cut into tiles, a block of rows by a group of subspaces, so the group's pages stay known;
  threads share the tiles, and so one row's groups too: cutting rows finer would lose the pages;
- an output larger than the caches is written past them;
- no centroid lies across two cache lines, if the table starts on one (see `buffers`).

Does not: check shapes and dtypes; `ProductCodec` has done so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from memstore.codec.buffers import LINE_BYTES, aligned_empty
from memstore.codec.kernels.compiler import compiled, read_only
from memstore.codec.kernels.threads import run_chunks

_BLOCK = 1024  # rows of a tile
_SMALL_BLOCK = 128  # rows of a tile whose tables are in the caches
_GROUP_BYTES = 16 << 20  # of a tile's tables
_AHEAD = 128  # centroids between asking and copying: more than are on their way at once
_CACHED_BYTES = 4 << 20  # about an L2 cache: no asking for smaller tables, smaller outputs stay
_MIN_CHUNK_BYTES = 1 << 19  # of output: less is not worth waking another thread for
_CAST_ROWS = 256  # float32 rows that NumPy casts to float16 at a time

_LANES = 16  # values in a register
_STREAM_ALIGNMENT = 16  # bytes; NumPy's arrays have it
_INT = ir.IntType(64)
_HIGH_HALF = 0xFFFF0000


def gather(codes: np.ndarray, table: np.ndarray, out: np.ndarray) -> int:
    """Put the centroids that the codes name side by side in `out`.

    Args:
        codes: (N, at least M) uint8 or uint16, C-contiguous; the first M columns are read.
        table: (M, K, width) uint16 or uint32: the bits of the centroids, C-contiguous.
        out: (N, M * width) uint16 or uint32, C-contiguous, filled. uint32 from a table of uint16
            turns bfloat16 into float32, which is exact.

    Returns:
        -1, or the first row with a code of K or more; then `out` is not to be used.
    """
    return _run(codes, table, out)


def gather_sum(
    codes: np.ndarray,
    table: np.ndarray,
    out: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    row_table: np.ndarray | None = None,
    addend: np.ndarray | None = None,
    addend_rows: np.ndarray | None = None,
) -> int:
    """Add a row of another table, a dense term, or both, to the centroids that the codes name.

    The sum is (centroid + row) + addend in float32, cast once: to the nearest, ties to even.

    Args:
        codes: (N, at least M) uint8 or uint16, C-contiguous; the first M columns are read.
        table: (M, K, width) bfloat16 or float32, C-contiguous.
        out: (N, D) float32, bfloat16 or float16, C-contiguous, filled; D = M * width.
        rows: (N,) integers, the row of `row_table` to add to each vector.
        row_table: (V, D) bfloat16 or float32, C-contiguous.
        addend: (N, D) float32, C-contiguous; or (L, D) with `addend_rows`.
        addend_rows: (N,) integers, the row of `addend` to add to each vector.

    Returns:
        -1, or the first row with a code of K or more, or whose `rows` is not in [0, V) or
        `addend_rows` not in [0, L); then `out` is not to be used.
    """
    if out.dtype != np.float16:
        return _run(codes, table, out, rows, row_table, addend, addend_rows)
    sums = aligned_empty((min(len(out), _CAST_ROWS), out.shape[1]), np.float32)
    for start in range(0, len(out), _CAST_ROWS):
        span = slice(start, start + _CAST_ROWS)
        block = out[span]
        bad_row = gather_sum(
            codes[span],
            table,
            sums[: len(block)],
            rows=None if rows is None else rows[span],
            row_table=row_table,
            addend=addend[span] if addend is not None and addend_rows is None else addend,
            addend_rows=None if addend_rows is None else addend_rows[span],
        )
        if bad_row >= 0:
            return start + bad_row
        with np.errstate(over="ignore"):
            block[...] = sums[: len(block)]
    return -1


def _run(
    codes: np.ndarray,
    table: np.ndarray,
    out: np.ndarray,
    rows: np.ndarray | None = None,
    row_table: np.ndarray | None = None,
    addend: np.ndarray | None = None,
    addend_rows: np.ndarray | None = None,
) -> int:
    num_subspaces, codebook_size, width = table.shape
    group = min(num_subspaces, max(1, _GROUP_BYTES // max(table[0].nbytes, 1)))
    table_bytes = table.nbytes + (0 if row_table is None else row_table.nbytes)
    is_large = table_bytes > _CACHED_BYTES
    ahead = max(1, _AHEAD // group) if is_large else 0
    block = _BLOCK if is_large else _SMALL_BLOCK
    is_aligned = out.ctypes.data % _STREAM_ALIGNMENT == 0
    # None is a type of its own: the kernel is compiled without the branch.
    streams = True if out.nbytes >= _CACHED_BYTES and is_aligned else None
    codes, target = read_only(codes), _as_records(out, width)
    source = _as_table(table, width)
    row_source = None if row_table is None else _as_table(row_table, width)
    rows = None if rows is None else read_only(rows)
    addend_source = None if addend is None else _as_table(addend, width)
    addend_rows = None if addend_rows is None else read_only(addend_rows)

    def put_tiles(start: int, stop: int) -> int:
        return _put_tiles(
            codes, source, target, rows, row_source, addend_rows, addend_source,
            start, stop, block, group, ahead, streams,
        )  # fmt: skip

    num_tiles = -(-len(out) // block) * -(-num_subspaces // group)
    tile_bytes = max(1, out.nbytes // max(num_tiles, 1))
    bad_rows = run_chunks(put_tiles, num_tiles, min_items=1 + _MIN_CHUNK_BYTES // tile_bytes)
    bad_row = min((row for row in bad_rows if row >= 0), default=-1)
    if bad_row < 0:
        return -1
    passed = slice(bad_row // block * block, bad_row + 1)  # blocks before it hold none
    is_bad = (codes[passed, :num_subspaces] >= codebook_size).any(axis=1)
    for chosen, source in ((rows, row_table), (addend_rows, addend)):
        if chosen is not None and source is not None:
            is_bad |= (chosen[passed] < 0) | (chosen[passed] >= len(source))
    return passed.start + int(is_bad.argmax()) if is_bad.any() else bad_row


def _as_records(array: np.ndarray, width: int) -> np.ndarray:
    """View (n, values) as (n, values / width) records: of a size that the compiler knows."""
    return array.view(_record_dtype(array.itemsize, width))


@cache
def _record_dtype(value_bytes: int, width: int) -> np.dtype[Any]:
    return np.dtype([("row", f"u{value_bytes}", (width,))])


def _as_table(array: np.ndarray, width: int) -> Any:
    num_values = math.prod(array.shape[1:])
    return read_only(_as_records(array.reshape(len(array), num_values), width))


def _item(_context: Any, array: Any, at: Any) -> tuple[Any, Any]:
    """Return `array[at]` of a flat view; Numba's own indexing would look for negative indices."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at = arguments
        data = context.make_array(signature.args[0])(context, builder, array).data
        return builder.zext(builder.load(builder.gep(data, [at])), _INT)

    return types.intp(array, types.intp), generate


def _prefetch(_context: Any, table: Any, at: Any) -> tuple[Any, Any]:
    """Ask for record `at` of a flat view to be brought to the L2; no address is an error."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, flag = signature.args[0], ir.IntType(32)
        byte = ir.IntType(8).as_pointer()
        ask = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag]),
            "llvm.prefetch.p0",
        )
        record = builder.bitcast(_record(context, builder, kind, *arguments), byte)
        for start in range(0, kind.dtype.size, LINE_BYTES):
            line = builder.gep(record, [ir.Constant(_INT, start)])
            # To read, into the L2 (asking for the L1 is slower: it has room for fewer), as data.
            builder.call(ask, [line, *(ir.Constant(flag, value) for value in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(table, types.intp), generate


def _fence(_context: Any) -> tuple[Any, Any]:
    """Let whoever learns that the kernel has returned see what it wrote past the caches."""

    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _put(*, streams: bool) -> Callable[..., Any]:
    """Return the intrinsic that puts one record together; `streams` writes it past the caches.

    Its arguments are flat views of records and where in them to look. Without terms to add, a
    record is copied, or widened from bfloat16 to float32, which is exact.
    """

    def put(
        _context: Any, out: Any, out_at: Any, table: Any, table_at: Any,
        rows: Any, row_at: Any, addend: Any, addend_at: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        places = (out, table, rows, addend)
        signature = types.void(*(kind for array in places for kind in (array, types.intp)))

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = signature.args[::2]
            target, *sources = (
                (_bits(kind), _record(context, builder, kind, *arguments[2 * i : 2 * i + 2]))
                for i, kind in enumerate(kinds)
                if kind != types.none
            )
            width = kinds[0].dtype.size * 8 // target[0]
            past_caches = streams and kinds[0].dtype.size % _STREAM_ALIGNMENT == 0
            for start in range(0, width, _LANES):
                count = min(_LANES, width - start)
                values = [_load(builder, *source, start, count) for source in sources]
                _store(builder, _combine(builder, values, target[0]), target[1], start, past_caches)
            return context.get_dummy_value()

        return signature, generate

    return put


def _bits(kind: Any) -> int:
    """Return the size of a record's values."""
    return int(kind.dtype.typeof("row").dtype.bitwidth)


def _record(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Return a pointer to the first value of record `at`."""
    record = builder.gep(context.make_array(kind)(context, builder, array).data, [at])
    return builder.bitcast(record, ir.IntType(_bits(kind)).as_pointer())


def _load(builder: Any, bits: int, record: Any, start: int, count: int) -> Any:
    vector = ir.VectorType(ir.IntType(bits), count)
    pointer = builder.gep(record, [ir.Constant(_INT, start)])
    values = builder.load(builder.bitcast(pointer, vector.as_pointer()))  # aligned as one value is
    values.align = bits // 8
    return values


def _store(builder: Any, values: Any, record: Any, start: int, past_caches: bool) -> None:
    pointer = builder.gep(record, [ir.Constant(_INT, start)])
    store = builder.store(values, builder.bitcast(pointer, values.type.as_pointer()))
    store.align = _STREAM_ALIGNMENT if past_caches else values.type.element.width // 8
    if past_caches:
        one = ir.Constant(ir.IntType(32), 1)
        store.set_metadata("nontemporal", builder.module.add_metadata([one]))


def _combine(builder: Any, values: list[Any], out_bits: int) -> Any:
    """Add vectors of bits, bfloat16 or float32, from first to last; one alone stays as it is."""
    if len(values) == 1 and values[0].type.element.width == out_bits:
        return values[0]
    if out_bits == 32:
        return _sum(builder, [_widened(builder, value) for value in values])
    count = values[0].type.count
    halves = zip(*(_split(builder, value) for value in values), strict=True)
    even, odd = (_rounded(builder, _sum(builder, list(half))) for half in halves)
    even = builder.lshr(even, _splat(even.type, 16))
    odd = builder.and_(odd, _splat(odd.type, _HIGH_HALF))
    pairs = ir.VectorType(ir.IntType(16), 2 * even.type.count)
    return _shuffled(builder, builder.bitcast(builder.or_(even, odd), pairs), range(count))


def _sum(builder: Any, values: list[Any]) -> Any:
    floats = ir.VectorType(ir.FloatType(), values[0].type.count)
    total = builder.bitcast(values[0], floats)
    for value in values[1:]:
        total = builder.fadd(total, builder.bitcast(value, floats))
    return builder.bitcast(total, values[0].type)


def _widened(builder: Any, values: Any) -> Any:
    """Put each bfloat16 in the high half of a float32."""
    if values.type.element.width == 32:
        return values
    wide = ir.VectorType(ir.IntType(32), values.type.count)
    return builder.shl(builder.zext(values, wide), _splat(wide, 16))


def _split(builder: Any, values: Any) -> tuple[Any, Any]:
    """Return the values of even and of odd lanes as float32; the last lane may lack its pair.

    A pair of bfloat16 is a word whose halves become float32 by one instruction each, and back: the
    sum takes half the instructions that it takes with lanes in order.
    """
    count = values.type.count
    num_pairs = -(-count // 2)
    lanes = [min(lane, count - 1) for lane in range(2 * num_pairs)]
    if values.type.element.width == 32:
        return tuple(_shuffled(builder, values, lanes[i::2]) for i in (0, 1))
    words = ir.VectorType(ir.IntType(32), num_pairs)
    pairs = builder.bitcast(_shuffled(builder, values, lanes), words)
    return builder.shl(pairs, _splat(words, 16)), builder.and_(pairs, _splat(words, _HIGH_HALF))


def _rounded(builder: Any, values: Any) -> Any:
    """Round float32 to the nearest bfloat16, ties to even: the high half of each lane."""
    kind = values.type
    is_odd = builder.and_(builder.lshr(values, _splat(kind, 16)), _splat(kind, 1))
    nearest = builder.add(values, builder.add(is_odd, _splat(kind, 0x7FFF)))
    floats = builder.bitcast(values, ir.VectorType(ir.FloatType(), kind.count))
    is_nan = builder.fcmp_unordered("uno", floats, floats)
    return builder.select(is_nan, builder.or_(values, _splat(kind, 0x400000)), nearest)


def _shuffled(builder: Any, values: Any, lanes: Any) -> Any:
    order = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(values, values, order)


def _splat(vector: Any, value: int) -> Any:
    return ir.Constant(vector, [value] * vector.count)


item = intrinsic(_item)
prefetch = intrinsic(_prefetch)
fence = intrinsic(_fence)
put = intrinsic(_put(streams=False))
put_past_caches = intrinsic(_put(streams=True))


@compiled
def _put_tiles(
    codes: np.ndarray, table: np.ndarray, out: np.ndarray,
    rows: Any, row_table: Any, addend_rows: Any, addend: Any,
    start: int, stop: int, block: int, group: int, ahead: int, streams: Any,
) -> int:  # fmt: skip
    """Fill tiles [start, stop), block after block; return -1, or a bad row of the first bad block.

    Tile i is group `i % num_groups` of block `i // num_groups`.
    """
    num_subspaces, _ = table.shape
    num_rows, num_groups = len(out), -(-num_subspaces // group)
    row_at, later_row_at = 0, 0
    for tile in range(start, stop):
        first, left = tile // num_groups * block, tile % num_groups * group
        last, right = min(first + block, num_rows), min(left + group, num_subspaces)
        following = min(tile + 1, stop - 1)
        next_first = following // num_groups * block
        next_shift = min(following % num_groups * group - left, num_subspaces - right)
        for n in range(first, last):
            later, shift = n + ahead, 0
            if later >= last:
                later, shift = min(later - last + next_first, num_rows - 1), next_shift
            if rows is not None:
                row = np.int64(rows[n])
                if row < 0 or row >= len(row_table):
                    return n
                row_at = row * num_subspaces
                later_row_at = np.int64(rows[later]) * num_subspaces + shift
            addend_at = n * num_subspaces
            if addend_rows is not None:
                row = np.int64(addend_rows[n])
                if row < 0 or row >= len(addend):
                    return n
                addend_at = row * num_subspaces
            if not _put_segment(
                codes, n, table, out, row_table, row_at, addend, addend_at, left, right,
                ahead, later, shift, later_row_at, streams,
            ):  # fmt: skip
                return n
    if streams is not None:
        fence()
    return -1


@compiled
def _put_segment(
    codes: np.ndarray, n: int, table: np.ndarray, out: np.ndarray,
    row_table: Any, row_at: int, addend: Any, addend_at: int, left: int, right: int,
    ahead: int, later: int, shift: int, later_row_at: int, streams: Any,
) -> bool:  # fmt: skip
    """Fill subspaces [left, right) of one row; return False at a code that is too large."""
    num_subspaces, codebook_size = table.shape
    code_at, later_code_at = n * codes.shape[1], later * codes.shape[1] + shift
    skip = 0
    if row_table is not None:
        skip = int(row_table.itemsize < LINE_BYTES)  # 1: two lie in a line
    for m in range(left, right):
        if ahead > 0:
            code = item(codes, later_code_at + m)
            prefetch(table, (m + shift) * codebook_size + code)
            if row_table is not None and m & skip == 0:
                prefetch(row_table, later_row_at + m)
        code = item(codes, code_at + m)
        if code >= codebook_size:
            return False
        if streams is not None:
            put_past_caches(
                out, n * num_subspaces + m, table, m * codebook_size + code,
                row_table, row_at + m, addend, addend_at + m,
            )  # fmt: skip
        else:
            put(
                out, n * num_subspaces + m, table, m * codebook_size + code,
                row_table, row_at + m, addend, addend_at + m,
            )  # fmt: skip
    return True
