"""`gather` on a GPU, from codes that lie in its memory, with a prediction added on the way.

Bound by memory: a 16-wide bfloat16 centroid is 32 bytes, one sector, so a gather wastes nothing of
what it fetches. A codebook is larger than the L2 cache but GROUP subspaces of it are not. All rows
go through one group before the next begins, so a large batch fetches the codebook from memory once;
the codes of a group fill a sector, and what it writes is in one piece of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from memstore.codec.kernels.gpu_compiler import (
    compiled,
    next_power_of_two,
    no_bad_row,
    on_device_of,
)
from memstore.codec.kernels.gpu_stages import Prediction


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a gather is cut up; what it writes does not depend on it.

    Attributes:
        group: subspaces that are gone through at a time, a power of two. The codebook of 16 with
            65,536 centroids of 32 bytes is 32 MiB.
        values: that a program writes, a power of two. 4,096 are 4 loads of 16 bytes in flight in
            each of 128 threads.
        warps: of a program.
    """

    group: int = 16
    values: int = 4096
    warps: int = 4


_TILING = Tiling()


def gather(
    codes: torch.Tensor,
    codebook: torch.Tensor,
    out: torch.Tensor,
    prediction: Prediction | None = None,
    *,
    tiling: Tiling = _TILING,
) -> torch.Tensor:
    """Put the centroids that the codes name side by side in `out`; returns before it is done.

    Args:
        codes: (N, C >= M) uint8 or uint16, rows contiguous; columns past M must be zero.
        codebook: (M, K, width) bfloat16, float16 or float32, contiguous.
        out: (N, M * width) bfloat16, float16 or float32, contiguous, filled.
        prediction: added in float32, the table first; the sum is rounded once.
        tiling: how the work is cut up.

    Returns:
        (1,) int64: N, or the first row with a code of K or more, a column past M that is not zero
        or a token id that the table does not have; then `out` is not to be used. Reading it waits
        for the kernel.
    """
    num_subspaces, codebook_size, width = codebook.shape
    num_rows, num_columns = codes.shape
    bad_row = no_bad_row(num_rows, out.device)
    group = min(tiling.group, next_power_of_two(num_columns))
    padded_width = next_power_of_two(width)
    rows = max(1, tiling.values // (group * padded_width))
    grid = triton.cdiv(num_rows, rows), triton.cdiv(num_columns, group)
    table = addend = out  # of pointers that the kernel does not follow
    token_ids, vocabulary = bad_row, 0
    if prediction is not None:
        table, token_ids, vocabulary = prediction.table, prediction.token_ids, len(prediction.table)
        addend = addend if prediction.addend is None else prediction.addend
    with on_device_of(out):
        _gather[grid](
            codes, codebook, table, token_ids, addend, out, bad_row,
            num_rows, vocabulary, codes.stride(0),
            NUM_COLUMNS=num_columns, NUM_SUBSPACES=num_subspaces, CODEBOOK_SIZE=codebook_size,
            WIDTH=width, PADDED_WIDTH=padded_width, ROWS=rows, GROUP=group,
            MAY_BE_BAD=codebook_size < 1 << 8 * codes.itemsize or num_columns > num_subspaces,
            HAS_TABLE=prediction is not None,
            HAS_ADDEND=prediction is not None and prediction.addend is not None,
            num_warps=tiling.warps, enable_fp_fusion=True,
        )  # fmt: skip
    return bad_row


@compiled
def centroids_of(
    codes: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    is_row: tl.tensor,
    bad_row: tl.tensor,
    code_stride: int,
    NUM_COLUMNS: tl.constexpr,
    NUM_SUBSPACES: tl.constexpr,
    CODEBOOK_SIZE: tl.constexpr,
    MAY_BE_BAD: tl.constexpr,
) -> tl.tensor:
    """Return which of all M * K centroids the codes of these rows and columns name, int64.

    Those of bad codes, and of codes past the last row or subspace, are the first centroid of all:
    whatever the records hold, nothing is read that is not the codebook's.
    """
    is_code = is_row[:, None] & (column < NUM_COLUMNS)[None, :]
    places = codes + row[:, None] * code_stride + column[None, :]
    code = tl.load(places, mask=is_code, other=0, eviction_policy="evict_first").to(tl.int32)
    is_good = is_code & (column < NUM_SUBSPACES)[None, :]
    if MAY_BE_BAD:
        is_bad = code >= tl.where(column < NUM_SUBSPACES, CODEBOOK_SIZE, 1)[None, :]
        rows = row[:, None] + tl.zeros_like(code)
        tl.atomic_min(bad_row + tl.zeros_like(code), rows, mask=is_bad, sem="relaxed")
        is_good = is_good & ~is_bad
    centroid = column.to(tl.int64)[None, :] * CODEBOOK_SIZE + code
    return tl.where(is_good, centroid, 0)


@compiled
def _gather(
    codes: tl.tensor,
    codebook: tl.tensor,
    table: tl.tensor,
    token_ids: tl.tensor,
    addend: tl.tensor,
    out: tl.tensor,
    bad_row: tl.tensor,
    num_rows: int,
    vocabulary: int,
    code_stride: int,
    NUM_COLUMNS: tl.constexpr,
    NUM_SUBSPACES: tl.constexpr,
    CODEBOOK_SIZE: tl.constexpr,
    MAY_BE_BAD: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED_WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_TABLE: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    is_row = row < num_rows
    centroid = centroids_of(
        codes, row, column, is_row, bad_row, code_stride,
        NUM_COLUMNS, NUM_SUBSPACES, CODEBOOK_SIZE, MAY_BE_BAD,
    )  # fmt: skip
    d = tl.arange(0, PADDED_WIDTH)[None, None, :]
    source = codebook + centroid[:, :, None] * WIDTH + d
    if PADDED_WIDTH == WIDTH:
        value = tl.load(source, eviction_policy="evict_last")  # (ROWS, GROUP, WIDTH)
    else:
        value = tl.load(source, mask=d < WIDTH, other=0.0, eviction_policy="evict_last")

    place = (column * WIDTH)[None, :, None] + d  # in a row of D values
    target = row[:, None, None] * (NUM_SUBSPACES * WIDTH) + place
    is_value = is_row[:, None, None] & (column < NUM_SUBSPACES)[None, :, None] & (d < WIDTH)
    if HAS_TABLE:
        token = tl.load(token_ids + row, mask=is_row, other=0)
        is_unknown = (token < 0) | (token >= vocabulary)
        tl.atomic_min(bad_row + tl.zeros_like(token), row, mask=is_unknown, sem="relaxed")
        token = tl.where(is_unknown, 0, token).to(tl.int64)
        expected = table + token[:, None, None] * (NUM_SUBSPACES * WIDTH) + place
        value = value.to(tl.float32) + tl.load(expected, mask=is_value, other=0.0).to(tl.float32)
    if HAS_ADDEND:
        value += tl.load(addend + target, mask=is_value, other=0.0, eviction_policy="evict_first")
    value = value.to(tl.float32).to(out.dtype.element_ty)
    tl.store(out + target, value, mask=is_value, cache_modifier=".cs")
