"""`assign` and `gather` on all cores: compiled at the first call, safe to call from many threads.

Does not: check shapes and dtypes; `ProductCodec` has done so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from memstore.codec.kernels.compiler import compiled, read_only
from memstore.codec.kernels.nearest import SPAN, TILE, nearest
from memstore.codec.kernels.threads import run_chunks

_MIN_CHUNK_FLOPS = 10_000_000  # about 0.1 ms: less is not worth waking another thread for
_MIN_CHUNK_BYTES = 1 << 18

_LANES = 16  # 16-bit values that are widened by one instruction


def prepare(codebook: np.ndarray) -> np.ndarray:
    """Lay a codebook out for `assign`.

    Args:
        codebook: (M, K, width) float32 or bfloat16.

    Returns:
        (M, ceil(K / TILE), 1 + width, TILE) float32: per tile -|c|^2/2, then the centroids
        transposed. Lanes past K score minus infinity. Size: 4 (1 + 1/width) bytes per codebook
        value, twice a bfloat16 codebook.
    """
    num_subspaces, codebook_size, width = codebook.shape
    num_tiles = -(-codebook_size // TILE)
    tiles = np.empty((num_subspaces, num_tiles, 1 + width, TILE), np.float32)
    padded = np.zeros((num_tiles * TILE, 1 + width), np.float32)
    padded[codebook_size:, 0] = -np.inf
    for m in range(num_subspaces):
        centroids = codebook[m].astype(np.float32)
        padded[:codebook_size, 1:] = centroids
        padded[:codebook_size, 0] = -0.5 * np.square(centroids, dtype=np.float64).sum(axis=1)
        tiles[m] = padded.reshape(num_tiles, TILE, 1 + width).transpose(0, 2, 1)
    return tiles


def assign(vectors: np.ndarray, tiles: np.ndarray, codes: np.ndarray) -> bool:
    """Find the nearest centroid of every subvector, by float32 scores.

    Args:
        vectors: (N, D) float32, C-contiguous.
        tiles: from `prepare`.
        codes: (N, at least M) uint8 or uint16, C-contiguous; the first M columns are filled.

    Returns:
        False if a value was not finite; then `codes` is not to be used.

    Cost: 2 N K D floating-point operations; scratch a thread: 192 subvectors and a few KB,
    whatever N and K.
    """
    num_subspaces, num_tiles, depth, _ = tiles.shape
    rows = read_only(vectors.reshape(len(vectors), num_subspaces, depth - 1))
    tiles = read_only(tiles)
    num_items = num_subspaces * -(-len(vectors) // SPAN)
    item_flops = 2 * min(len(vectors), SPAN) * num_tiles * TILE * depth
    finite = run_chunks(
        lambda start, stop: nearest(rows, tiles, codes, start, stop),
        num_items,
        min_items=1 + _MIN_CHUNK_FLOPS // max(item_flops, 1),
    )
    return all(finite)


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
    num_subspaces, _, width = table.shape
    num_rows = len(codes)
    kernel = _copy_rows if table.itemsize == out.itemsize else _widen_rows
    codes, source = read_only(codes), read_only(_as_records(table))
    target = _as_records(out.reshape(num_rows, num_subspaces, width))
    bad_rows = run_chunks(
        lambda start, stop: kernel(codes, source, target, start, stop),
        num_rows,
        min_items=1 + _MIN_CHUNK_BYTES // max(out.itemsize * num_subspaces * width, 1),
    )
    return min((row for row in bad_rows if row >= 0), default=-1)


def _as_records(array: np.ndarray) -> np.ndarray:
    """View (..., width) as (...) records: their size is in the type, so they move in registers."""
    row = np.dtype([("row", array.dtype, (array.shape[-1],))])
    return array.view(row)[..., 0]


@compiled
def _copy_rows(codes: np.ndarray, table: np.ndarray, out: np.ndarray, start: int, stop: int) -> int:
    num_subspaces, codebook_size = table.shape
    for n in range(start, stop):
        for m in range(num_subspaces):
            code = codes[n, m]
            if code >= codebook_size:
                return n
            out[n, m] = table[m, code]
    return -1


@compiled
def _widen_rows(
    codes: np.ndarray, table: np.ndarray, out: np.ndarray, start: int, stop: int
) -> int:
    num_subspaces, codebook_size = table.shape
    flat_table = table.reshape(table.size)
    flat_out = out.reshape(out.size)
    for n in range(start, stop):
        for m in range(num_subspaces):
            code = codes[n, m]
            if code >= codebook_size:
                return n
            widen_row(flat_out, n * num_subspaces + m, flat_table, m * codebook_size + code)
    return -1


def _widen_row(_context: Any, out: Any, out_at: Any, table: Any, table_at: Any) -> tuple[Any, Any]:
    """Set `out[out_at]` to `table[table_at]`, each bfloat16 in the high half of a float32."""
    signature = types.void(out, types.intp, table, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, out_at, table, table_at = arguments
        target = context.make_array(signature.args[0])(context, builder, out).data
        source = context.make_array(signature.args[2])(context, builder, table).data
        target = builder.bitcast(builder.gep(target, [out_at]), ir.IntType(32).as_pointer())
        source = builder.bitcast(builder.gep(source, [table_at]), ir.IntType(16).as_pointer())
        width = signature.args[2].dtype.size // 2
        for start in range(0, width, _LANES):
            _emit_widen(builder, target, source, start, min(_LANES, width - start))
        return context.get_dummy_value()

    return signature, generate


def _emit_widen(builder: Any, target: Any, source: Any, start: int, count: int) -> None:
    narrow, wide = (ir.VectorType(ir.IntType(bits), count) for bits in (16, 32))
    offset = ir.Constant(ir.IntType(64), start)
    bits = builder.load(builder.bitcast(builder.gep(source, [offset]), narrow.as_pointer()))
    bits.align = 2
    shifted = builder.shl(builder.zext(bits, wide), ir.Constant(wide, [16] * count))
    pointer = builder.bitcast(builder.gep(target, [offset]), wide.as_pointer())
    builder.store(shifted, pointer).align = 4


widen_row = intrinsic(_widen_row)
