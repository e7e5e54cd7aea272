"""Kernels of the gradient that goes through codes: of far values, of far keys, and of centroids.

Each block of queries leaves a table row for each code; these are added up from block to block
(`run_on`), and each far key takes what is its code's. See `longvq_sums` and `longvq_moments`.
"""

from __future__ import annotations

import triton.language as tl

from memstore.codec.kernels.gpu_compiler import compiled
from memstore.models.longvq_triton_weights import load_rows, row_products, slope, store_rows, weigh


@compiled
def far_products(
    queries: tl.tensor,
    sides: tl.tensor,
    codebook: tl.tensor,
    counts: tl.tensor,
    totals: tl.tensor,
    table: tl.tensor,
    row_stride: int,
    first_row: int,
    first_block: int,
    span: int,
    num_blocks: int,
    height: int,
    HEADS: tl.constexpr,
    NUM_CODES: tl.constexpr,
    KEY_DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    SIDE: tl.constexpr,
    IS_MOMENT: tl.constexpr,
    CODES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    IS_SOFTMAX: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Write, for each code, weights of queries times their sides; or slopes times moments.

    Sides are (R, A, r, SIDE); a moment is a side times the query, (SIDE, K). The table is
    (rows, span, S, SIDE or SIDE·K).
    """
    place = tl.program_id(0)
    part = place // span
    block = first_block + place % span
    row = (first_row + part).to(tl.int64)
    head = (first_row + part) % HEADS
    here = row * num_blocks + block
    c = tl.program_id(1) * CODES + tl.arange(0, CODES)
    is_code = c < NUM_CODES
    f = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    SIZE: tl.constexpr = SIDE * KEY_DIM if IS_MOMENT else SIDE
    is_column = f < SIZE
    keys = load_rows(codebook, head * NUM_CODES + c, is_code, KEY_DIM, DEPTH)
    count = tl.load(counts + here * NUM_CODES + c, mask=is_code, other=0.0)[:, None]
    made = tl.zeros((CODES, COLUMNS), tl.float32)
    for first in range(0, height, ROWS):
        i = first + tl.arange(0, ROWS)
        is_row = i < height
        query = here * height + i
        q = load_rows(queries, query, is_row, KEY_DIM, DEPTH)
        total = tl.load(totals + query, mask=is_row, other=1.0)[None, :]
        logits = tl.dot(keys, tl.trans(q), input_precision=PRECISION)
        is_there = is_row[:, None] & is_column[None, :]
        if IS_MOMENT:
            left = slope(logits, count, total, IS_SOFTMAX)
            side = tl.load(
                sides + query[:, None] * SIDE + (f // KEY_DIM)[None, :], mask=is_there, other=0.0
            )
            asking = tl.load(
                queries + query[:, None] * KEY_DIM + (f % KEY_DIM)[None, :],
                mask=is_there,
                other=0.0,
            )
            right = side * asking
        else:
            left = weigh(logits, count, total, IS_SOFTMAX)
            right = tl.load(sides + query[:, None] * SIDE + f[None, :], mask=is_there, other=0.0)
        made = tl.dot(left, right, made, input_precision=PRECISION)
    target = table + part.to(tl.int64) * row_stride
    target += ((place % span).to(tl.int64) * NUM_CODES + c)[:, None] * SIZE + f[None, :]
    tl.store(target, made, mask=is_code[:, None] & is_column[None, :])


@compiled
def centroid_gradient(
    queries: tl.tensor,
    codebook: tl.tensor,
    counts: tl.tensor,
    sums: tl.tensor,
    grad: tl.tensor,
    totals: tl.tensor,
    shares: tl.tensor,
    table: tl.tensor,
    first_row: int,
    first_block: int,
    span: int,
    num_blocks: int,
    height: int,
    HEADS: tl.constexpr,
    NUM_CODES: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    SLICE: tl.constexpr,
    CODES: tl.constexpr,
    ROWS: tl.constexpr,
    IS_SOFTMAX: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Write what the centroids get from one block of queries: a table (rows, span, S, K)."""
    place = tl.program_id(0)
    part = place // span
    block = first_block + place % span
    row = (first_row + part).to(tl.int64)
    head = (first_row + part) % HEADS
    here = row * num_blocks + block
    slot = part.to(tl.int64) * (span + 1) + place % span
    c = tl.program_id(1) * CODES + tl.arange(0, CODES)
    is_code = c < NUM_CODES
    keys = load_rows(codebook, head * NUM_CODES + c, is_code, KEY_DIM, DEPTH)
    far = slot * NUM_CODES + c
    count = tl.load(counts + here * NUM_CODES + c, mask=is_code, other=0.0)[:, None]
    given = tl.zeros((CODES, DEPTH), tl.float32)
    for first in range(0, height, ROWS):
        i = first + tl.arange(0, ROWS)
        is_row = i < height
        query = here * height + i
        q = load_rows(queries, query, is_row, KEY_DIM, DEPTH)
        total = tl.load(totals + query, mask=is_row, other=1.0)[None, :]
        share = tl.load(shares + query, mask=is_row, other=0.0)[None, :]
        logits = tl.dot(keys, tl.trans(q), input_precision=PRECISION)
        products = row_products(
            sums, far, is_code, grad, query, is_row, VALUE_DIM, SLICE, PRECISION
        )
        asked = slope(logits, count, total, IS_SOFTMAX) * (products - count * share)
        given = tl.dot(asked, q, given, input_precision=PRECISION)
    store_rows(table, place.to(tl.int64) * NUM_CODES + c, is_code, given, KEY_DIM, DEPTH)


@compiled
def give(
    table: tl.tensor,
    codes: tl.tensor,
    sides: tl.tensor,
    into: tl.tensor,
    sign: float,
    row_stride: int,
    slot_stride: int,
    first_row: int,
    first_block: int,
    span: int,
    num_blocks: int,
    WINDOW: tl.constexpr,
    NUM_CODES: tl.constexpr,
    DIM: tl.constexpr,
    SIDE: tl.constexpr,
    KEYS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Add to each key of some key blocks its code's row of the table, times its side.

    A row is (SIDE, DIM), and sides are (R, A', W, SIDE).
    """
    place = tl.program_id(0)
    part = place // span
    row = (first_row + part).to(tl.int64)
    w = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    d = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    is_token = w < WINDOW
    key = (row * num_blocks + first_block + place % span) * WINDOW + w
    is_there = is_token[:, None] & (d < DIM)[None, :]
    code = tl.load(codes + key, mask=is_token, other=0)
    source = table + part.to(tl.int64) * row_stride + (place % span).to(tl.int64) * slot_stride
    source += code.to(tl.int64)[:, None] * (SIDE * DIM) + d[None, :]
    given = tl.zeros((KEYS, COLUMNS), tl.float32)
    for side in range(SIDE):
        times = tl.load(sides + key * SIDE + side, mask=is_token, other=0.0)
        given += tl.load(source + side * DIM, mask=is_there, other=0.0) * times[:, None]
    target = into + key[:, None] * DIM + d[None, :]
    tl.store(target, tl.load(target, mask=is_there, other=0.0) + sign * given, mask=is_there)
