"""Late interaction on a GPU, straight from codes: decoded vectors never reach memory.

The score of a passage is the sum, over the question's vectors, of the largest inner product with
one of the passage's. A program decodes a block of a passage's tokens, one group of subspaces at a
time, into the registers, multiplies them there, and keeps the maxima.

Differs: a processor looks inner products up in a table of a question's vectors with all centroids.
Here the table of 65,536 centroids would be larger than the codebook, and a product costs nothing
beside the gather.
"""

from __future__ import annotations

import torch
import triton.language as tl

from memstore.codec.kernels.gpu_compiler import (
    compiled,
    next_power_of_two,
    no_bad_row,
    on_device_of,
)
from memstore.codec.kernels.gpu_gather import centroids_of

_ROWS = 32
_DEPTH = 64  # values of a vector that are multiplied at a time
_MIN_QUERIES = 16  # rows of a matrix product


def max_similarity(
    queries: torch.Tensor,
    codes: torch.Tensor,
    offsets: torch.Tensor,
    codebook: torch.Tensor,
    scores: torch.Tensor,
) -> torch.Tensor:
    """Score passages for a question; returns before it is done.

    Args:
        queries: (Q, D) float32 or bfloat16, contiguous: the question's vectors.
        codes: (N, C >= M) uint8 or uint16, rows contiguous; columns past M must be zero.
        offsets: (P + 1,) int64, rising from 0 or more to N or less: passage p has the rows from
            offsets[p] up to offsets[p + 1].
        codebook: (M, K, width) bfloat16 or float32, contiguous.
        scores: (P,) float32, filled; -inf for a passage without rows.

    Returns:
        (1,) int64: N, or the first row with a code of K or more; then `scores` is not to be used.
    """
    num_subspaces, codebook_size, width = codebook.shape
    num_columns = codes.shape[1]
    bad_row = no_bad_row(len(codes), scores.device)
    padded_width = next_power_of_two(width)
    # Three TF32 products make up a float32 one; the interpreter has no bfloat16 products.
    is_narrow = queries.dtype == codebook.dtype == torch.bfloat16 and codebook.is_cuda
    with on_device_of(scores):
        _max_similarity[(len(scores),)](
            queries, codes, offsets, codebook, scores, bad_row, codes.stride(0),
            NUM_QUERIES=len(queries),
            PADDED_QUERIES=max(_MIN_QUERIES, next_power_of_two(len(queries))),
            NUM_COLUMNS=num_columns, NUM_SUBSPACES=num_subspaces, CODEBOOK_SIZE=codebook_size,
            MAY_BE_BAD=codebook_size < 1 << 8 * codes.itemsize or num_columns > num_subspaces,
            WIDTH=width, PADDED_WIDTH=padded_width,
            ROWS=_ROWS, GROUP=max(1, _DEPTH // padded_width),
            PRODUCT=tl.bfloat16 if is_narrow else tl.float32,
            enable_fp_fusion=True,
        )  # fmt: skip
    return bad_row


@compiled
def _max_similarity(
    queries: tl.tensor,
    codes: tl.tensor,
    offsets: tl.tensor,
    codebook: tl.tensor,
    scores: tl.tensor,
    bad_row: tl.tensor,
    code_stride: int,
    NUM_QUERIES: tl.constexpr,
    PADDED_QUERIES: tl.constexpr,
    NUM_COLUMNS: tl.constexpr,
    NUM_SUBSPACES: tl.constexpr,
    CODEBOOK_SIZE: tl.constexpr,
    MAY_BE_BAD: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED_WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    PRODUCT: tl.constexpr,
) -> None:
    passage = tl.program_id(0)
    stop = tl.load(offsets + passage + 1)
    query = tl.arange(0, PADDED_QUERIES)
    depth = tl.arange(0, GROUP * PADDED_WIDTH)  # of a group's values, padded
    d = depth % PADDED_WIDTH
    best = tl.full((PADDED_QUERIES,), float("-inf"), tl.float32)
    for first in range(tl.load(offsets + passage), stop, ROWS):
        row = first + tl.arange(0, ROWS)
        is_row = row < stop
        products = tl.zeros((PADDED_QUERIES, ROWS), tl.float32)
        for start in range(0, NUM_COLUMNS, GROUP):
            centroid = centroids_of(
                codes, row, start + tl.arange(0, GROUP), is_row, bad_row, code_stride,
                NUM_COLUMNS, NUM_SUBSPACES, CODEBOOK_SIZE, MAY_BE_BAD,
            )  # fmt: skip
            inner = tl.arange(0, PADDED_WIDTH)[None, None, :]
            source = codebook + centroid[:, :, None] * WIDTH + inner
            vectors = tl.load(source, mask=inner < WIDTH, other=0.0).to(PRODUCT)
            vectors = tl.reshape(vectors, (ROWS, GROUP * PADDED_WIDTH))
            m = start + depth // PADDED_WIDTH
            is_value = (m < NUM_SUBSPACES) & (d < WIDTH)
            places = queries + query[:, None] * (NUM_SUBSPACES * WIDTH) + (m * WIDTH + d)[None, :]
            is_value = (query < NUM_QUERIES)[:, None] & is_value[None, :]
            values = tl.load(places, mask=is_value, other=0.0).to(PRODUCT)
            products = tl.dot(values, tl.trans(vectors), products, input_precision="tf32x3")
        products = tl.where(is_row[None, :], products, float("-inf"))
        best = tl.maximum(best, tl.max(products, axis=1))
    tl.store(scores + passage, tl.sum(tl.where(query < NUM_QUERIES, best, 0.0), axis=0))
