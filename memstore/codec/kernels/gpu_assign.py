"""`assign` on a GPU: exact nearest-centroid search whose scores never leave the registers.

The score of centroid c for vector x is x.c - |c|^2/2; the largest wins. A program holds ROWS
subvectors and passes over all centroids of their subspace, a tile of COLUMNS at a time: a matrix
product in the tensor cores, then one maximum a row. Only which tile holds the best score is carried
along, because following the index too would cost three comparisons a score instead of one, and the
comparisons are what bounds the search. A second kernel scores the winning tile again and finds the
place in it. Equal scores go to the lowest index: an earlier tile wins over a later one, and an
earlier place in it.

With a bfloat16 codebook the products are exact: the 24 bits of a float32 are three bfloat16 of 8
bits each, so x.c is three bfloat16 products, summed in float32; two do for a float16 vector, and
one for a bfloat16. With a float32 codebook they are float32 products (`ieee`) or sums of three TF32
ones (`tf32x3`, whose error is within the rounding of a float32 sum of 16 terms).
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


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the search is cut up; codes depend on it no further than by rounding.

    Attributes:
        rows, columns: subvectors and centroids in a block of scores, powers of two of 16 or more.
        warps, stages: of a program, and how many tiles are on their way to it.
    """

    rows: int
    columns: int
    warps: int
    stages: int


LARGE = Tiling(rows=64, columns=128, warps=4, stages=3)
# With few centroids the second kernel, whose work grows with the columns, has a larger share.
SMALL = Tiling(rows=128, columns=32, warps=4, stages=2)
_LARGE_FROM = 2048  # centroids
_MAX_VALUES = 2048  # of the vectors that a program holds, where they are wider than 16
_LOCATE_VALUES = 8192  # centroid values that a program of the second kernel holds
_MIN_DEPTH = 16  # of a matrix product
_PIECES = {torch.bfloat16: 1, torch.float16: 2, torch.float32: 3}


def half_norms(codebook: torch.Tensor) -> torch.Tensor:
    """Return -|c|^2/2 of a codebook (M, K, width): (M, K) float32."""
    norms = torch.empty(codebook.shape[:2], dtype=torch.float32, device=codebook.device)
    for target, centroids in zip(norms, codebook, strict=True):  # float64 of all takes 2 GiB
        target.copy_(centroids.double().square().sum(dim=1).mul(-0.5))
    return norms


def assign(
    vectors: torch.Tensor,
    codebook: torch.Tensor,
    norms: torch.Tensor,
    codes: torch.Tensor,
    *,
    precision: str = "ieee",
    tiling: Tiling | None = None,
) -> torch.Tensor:
    """Find the nearest centroid of every subvector; returns before it is done.

    A vector's codes do not depend on the batch that it is in.

    Args:
        vectors: (N, M * width) float32, float16 or bfloat16, rows contiguous.
        codebook: (M, K, width) bfloat16 or float32, contiguous.
        norms: (M, K), from `half_norms`.
        codes: (N, C >= M) uint8 or uint16, rows contiguous; the first M columns are filled.
        precision: of a float32 codebook's products, "ieee" or "tf32x3".
        tiling: None for what is best at this K.

    Returns:
        (1,) int64: N, or the first row with a value that is not finite; then `codes` is not to be
        used. Reading it waits for the kernel.

    Cost: 2 N K D floating-point operations, once for each of the three, two or one products; no
    memory beside the codes.
    """
    num_subspaces, codebook_size, width = codebook.shape
    num_rows = len(vectors)
    depth = max(_MIN_DEPTH, next_power_of_two(width))
    tiling = tiling or _tiling(codebook_size, depth)
    bad_row = no_bad_row(num_rows, codes.device)
    common = {
        "CODEBOOK_SIZE": codebook_size, "WIDTH": width, "DEPTH": depth, "COLUMNS": tiling.columns,
        "enable_fp_fusion": True,
    }  # fmt: skip
    arguments = (
        vectors, codebook, norms, codes, bad_row, num_rows, vectors.stride(0), codes.stride(0),
    )  # fmt: skip
    rows = max(1, _LOCATE_VALUES // (tiling.columns * depth))
    with on_device_of(codes):
        _best_tile[triton.cdiv(num_rows, tiling.rows), num_subspaces](
            *arguments,
            **common,
            ROWS=tiling.rows,
            PIECES=_PIECES[vectors.dtype] if codebook.dtype == torch.bfloat16 else 0,
            PRECISION=precision,
            # The interpreter has no bfloat16 products; those of the pieces in float32 are equal.
            PIECE=tl.bfloat16 if codebook.is_cuda else tl.float32,
            STAGES=tiling.stages,
            num_warps=tiling.warps,
        )
        _locate[triton.cdiv(num_rows, rows), num_subspaces](*arguments, **common, ROWS=rows)
    return bad_row


def _tiling(codebook_size: int, depth: int) -> Tiling:
    if depth > _MIN_DEPTH:
        return Tiling(rows=max(16, _MAX_VALUES // depth), columns=32, warps=4, stages=2)
    return LARGE if codebook_size >= _LARGE_FROM else SMALL


@compiled
def _best_tile(
    vectors: tl.tensor,
    codebook: tl.tensor,
    norms: tl.tensor,
    codes: tl.tensor,
    bad_row: tl.tensor,
    num_rows: int,
    vector_stride: int,
    code_stride: int,
    CODEBOOK_SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,
    PRECISION: tl.constexpr,
    PIECE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Leave in `codes` the number of the tile of COLUMNS centroids with the best score."""
    m = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, DEPTH)
    is_value = (row < num_rows)[:, None] & (d < WIDTH)[None, :]
    source = vectors + row[:, None] * vector_stride + (m * WIDTH + d)[None, :]
    x = tl.load(source, mask=is_value, other=0.0).to(tl.float32)  # (ROWS, DEPTH)
    is_bad = ~(tl.abs(x) < float("inf"))
    zeros = tl.zeros((ROWS, DEPTH), tl.int64)
    tl.atomic_min(bad_row + zeros, row[:, None] + zeros, mask=is_bad, sem="relaxed")
    # Cut off, not rounded: each piece then holds 8 bits more of x, and what is left is exact.
    high = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    rest = x - high
    middle = (rest.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    low = (rest - middle).to(PIECE)
    high = high.to(PIECE)
    middle = middle.to(PIECE)

    table = codebook + m.to(tl.int64) * (CODEBOOK_SIZE * WIDTH)
    biases = norms + m.to(tl.int64) * CODEBOOK_SIZE
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    best_tile = tl.zeros((ROWS,), tl.int32)
    # With its stages named, the loop fetches the norms ahead too, not only what feeds a product.
    for tile in tl.range(tl.cdiv(CODEBOOK_SIZE, COLUMNS), num_stages=STAGES):
        k = tile * COLUMNS + tl.arange(0, COLUMNS)
        places = table + k[None, :] * WIDTH + d[:, None]
        if CODEBOOK_SIZE % COLUMNS == 0 and WIDTH == DEPTH:
            centroids = tl.load(places)  # (DEPTH, COLUMNS)
        else:
            is_centroid = (k < CODEBOOK_SIZE)[None, :] & (d < WIDTH)[:, None]
            centroids = tl.load(places, mask=is_centroid, other=0.0)
        if CODEBOOK_SIZE % COLUMNS == 0:
            bias = tl.load(biases + k)
        else:
            bias = tl.load(biases + k, mask=k < CODEBOOK_SIZE, other=float("-inf"))
        if PIECES == 0:
            scores = tl.dot(x, centroids, input_precision=PRECISION)  # (ROWS, COLUMNS)
        else:
            centroids = centroids.to(PIECE)
            scores = tl.dot(high, centroids)
        if PIECES > 1:
            scores = tl.dot(middle, centroids, scores)
        if PIECES > 2:
            scores = tl.dot(low, centroids, scores)
        top = tl.max(scores + bias[None, :], axis=1)
        is_better = top > best
        best = tl.where(is_better, top, best)
        best_tile = tl.where(is_better, tile, best_tile)
    target = codes + row * code_stride + m
    tl.store(target, best_tile.to(codes.dtype.element_ty), mask=row < num_rows)


@compiled
def _locate(
    vectors: tl.tensor,
    codebook: tl.tensor,
    norms: tl.tensor,
    codes: tl.tensor,
    bad_row: tl.tensor,
    num_rows: int,
    vector_stride: int,
    code_stride: int,
    CODEBOOK_SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """Turn the numbers of tiles in `codes` into those of the best centroids in the tiles."""
    m = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, DEPTH)
    is_row = row < num_rows
    source = vectors + row[:, None] * vector_stride + (m * WIDTH + d)[None, :]
    x = tl.load(source, mask=is_row[:, None] & (d < WIDTH)[None, :], other=0.0).to(tl.float32)
    x = tl.where(tl.abs(x) < float("inf"), x, 0.0)  # the other kernel has refused the row
    target = codes + row * code_stride + m
    tile = tl.load(target, mask=is_row, other=0).to(tl.int32)
    k = tile[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]  # (ROWS, COLUMNS)
    is_centroid = k < CODEBOOK_SIZE
    places = codebook + m.to(tl.int64) * (CODEBOOK_SIZE * WIDTH)
    places = places + k[:, :, None] * WIDTH + d[None, None, :]
    is_value = is_centroid[:, :, None] & (d < WIDTH)[None, None, :]
    centroids = tl.load(places, mask=is_value, other=0.0).to(tl.float32)
    bias = tl.load(
        norms + m.to(tl.int64) * CODEBOOK_SIZE + k, mask=is_centroid, other=float("-inf")
    )
    scores = tl.sum(x[:, None, :] * centroids, axis=2) + bias
    code = tile * COLUMNS + tl.argmax(scores, axis=1)
    code = tl.minimum(code, CODEBOOK_SIZE - 1)  # where no score is a number
    tl.store(target, code.to(codes.dtype.element_ty), mask=is_row)
