"""Kernels of the gradient of factored attention; each makes the scores that it needs anew.

Let w_ic be the weight that query i gives to one key of code c (or to one near key), w'_ic how that
grows with its logit, n_c how many keys the code has, s_c the sum of their values, g_i the gradient
of the output and d_i = g_i·output_i. Then the gradient of the logit is w'_ic·(g_i·s_c - n_c·d_i),
and that of each far value of code c is Σ_i w_ic·g_i over the queries that see it through the code.

No program adds to what another writes, so the same input gives the same gradients, bit for bit.
"""

from __future__ import annotations

import triton.language as tl

from memstore.codec.kernels.gpu_compiler import compiled
from memstore.models.longvq_triton_weights import (
    bias_tile,
    last_near,
    load_rows,
    row_products,
    slope,
    store_rows,
    weigh,
)


@compiled
def query_gradient(
    queries: tl.tensor,
    near_keys: tl.tensor,
    values: tl.tensor,
    codebook: tl.tensor,
    bias: tl.tensor,
    is_key: tl.tensor,
    counts: tl.tensor,
    sums: tl.tensor,
    grad: tl.tensor,
    totals: tl.tensor,
    shares: tl.tensor,
    into: tl.tensor,
    first_row: int,
    first_block: int,
    span: int,
    num_blocks: int,
    height: int,
    HEADS: tl.constexpr,
    WINDOW: tl.constexpr,
    NEAR: tl.constexpr,
    NUM_CODES: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    SLICE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    IS_SOFTMAX: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Write the gradient of a tile of queries."""
    place = tl.program_id(0)
    part = place // span
    block = first_block + place % span
    row = (first_row + part).to(tl.int64)
    head = (first_row + part) % HEADS
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_row = i < height
    here = row * num_blocks + block
    query = here * height + i
    slot = part.to(tl.int64) * (span + 1) + place % span
    q = load_rows(queries, query, is_row, KEY_DIM, DEPTH)
    total = tl.load(totals + query, mask=is_row, other=1.0)[:, None]
    share = tl.load(shares + query, mask=is_row, other=0.0)[:, None]
    given = tl.zeros((ROWS, DEPTH), tl.float32)
    for first in range(0, NUM_CODES, COLUMNS):
        c = first + tl.arange(0, COLUMNS)
        is_code = c < NUM_CODES
        count = tl.load(counts + here * NUM_CODES + c, mask=is_code, other=0.0)[None, :]
        keys = load_rows(codebook, head * NUM_CODES + c, is_code, KEY_DIM, DEPTH)
        far = slot * NUM_CODES + c
        logits = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
        products = row_products(
            grad, query, is_row, sums, far, is_code, VALUE_DIM, SLICE, PRECISION
        )
        asked = slope(logits, count, total, IS_SOFTMAX) * (products - count * share)
        given = tl.dot(asked, keys, given, input_precision=PRECISION)
    begin = (row * (num_blocks + NEAR - 1) + block) * WINDOW
    for first in range(0, last_near(tl.program_id(1), ROWS, WINDOW, NEAR), COLUMNS):
        j = first + tl.arange(0, COLUMNS)
        is_near = j < NEAR * WINDOW
        keys = load_rows(near_keys, begin + j, is_near, KEY_DIM, DEPTH)
        logits = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
        logits += bias_tile(bias, is_key, head, height, i, j, begin + j, is_near, NEAR * WINDOW)
        products = row_products(
            grad, query, is_row, values, begin + j, is_near, VALUE_DIM, SLICE, PRECISION
        )
        count = tl.where(is_near, 1.0, 0.0)[None, :]
        asked = slope(logits, count, total, IS_SOFTMAX) * (products - share)
        given = tl.dot(asked, keys, given, input_precision=PRECISION)
    store_rows(into, query, is_row, given, KEY_DIM, DEPTH)


@compiled
def near_gradient(
    queries: tl.tensor,
    near_keys: tl.tensor,
    values: tl.tensor,
    bias: tl.tensor,
    is_key: tl.tensor,
    grad: tl.tensor,
    totals: tl.tensor,
    shares: tl.tensor,
    into_keys: tl.tensor,
    into_values: tl.tensor,
    num_blocks: int,
    height: int,
    HEADS: tl.constexpr,
    WINDOW: tl.constexpr,
    NEAR: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    SLICE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    IS_SOFTMAX: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Write the gradient of a tile of keys and values from the queries that see them one by one."""
    num_key_blocks = num_blocks + NEAR - 1
    row = tl.program_id(0) // num_key_blocks
    key_block = tl.program_id(0) % num_key_blocks
    head = row % HEADS
    w = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_near = w < WINDOW
    key = tl.program_id(0).to(tl.int64) * WINDOW + w
    keys = load_rows(near_keys, key, is_near, KEY_DIM, DEPTH)
    count = tl.where(is_near, 1.0, 0.0)[None, :]
    of_keys = tl.zeros((COLUMNS, DEPTH), tl.float32)
    of_values = tl.zeros((COLUMNS, WIDTH), tl.float32)
    first_place = tl.maximum(key_block - num_blocks + 1, 0)
    for place in range(first_place, tl.minimum(key_block + 1, NEAR)):
        here = row.to(tl.int64) * num_blocks + key_block - place
        for first in range(0, height, ROWS):
            i = first + tl.arange(0, ROWS)
            is_row = i < height
            query = here * height + i
            q = load_rows(queries, query, is_row, KEY_DIM, DEPTH)
            g = load_rows(grad, query, is_row, VALUE_DIM, WIDTH)
            total = tl.load(totals + query, mask=is_row, other=1.0)[:, None]
            share = tl.load(shares + query, mask=is_row, other=0.0)[:, None]
            logits = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
            logits += bias_tile(
                bias, is_key, head, height, i, place * WINDOW + w, key, is_near, NEAR * WINDOW
            )
            products = row_products(
                grad, query, is_row, values, key, is_near, VALUE_DIM, SLICE, PRECISION
            )
            weights = weigh(logits, count, total, IS_SOFTMAX)
            asked = slope(logits, count, total, IS_SOFTMAX) * (products - share)
            of_values = tl.dot(tl.trans(weights), g, of_values, input_precision=PRECISION)
            of_keys = tl.dot(tl.trans(asked), q, of_keys, input_precision=PRECISION)
    store_rows(into_keys, key, is_near, of_keys, KEY_DIM, DEPTH)
    store_rows(into_values, key, is_near, of_values, VALUE_DIM, WIDTH)


@compiled
def bias_gradient(
    queries: tl.tensor,
    near_keys: tl.tensor,
    values: tl.tensor,
    bias: tl.tensor,
    is_key: tl.tensor,
    grad: tl.tensor,
    totals: tl.tensor,
    shares: tl.tensor,
    parts: tl.tensor,
    num_parts: int,
    step: int,
    num_texts: int,
    num_blocks: int,
    height: int,
    HEADS: tl.constexpr,
    WINDOW: tl.constexpr,
    NEAR: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    DEPTH: tl.constexpr,
    SLICE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    IS_SOFTMAX: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Add up a tile of the bias' gradient over `step` blocks: parts (H, num_parts, r, near)."""
    head = tl.program_id(0) // num_parts
    part = tl.program_id(0) % num_parts
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    is_row = i < height
    is_near = j < NEAR * WINDOW
    count = tl.where(is_near, 1.0, 0.0)[None, :]
    given = tl.zeros((ROWS, COLUMNS), tl.float32)
    for number in range(part * step, tl.minimum((part + 1) * step, num_texts * num_blocks)):
        row = (number // num_blocks * HEADS + head).to(tl.int64)
        block = number % num_blocks
        query = (row * num_blocks + block) * height + i
        key = (row * (num_blocks + NEAR - 1) + block) * WINDOW + j
        q = load_rows(queries, query, is_row, KEY_DIM, DEPTH)
        keys = load_rows(near_keys, key, is_near, KEY_DIM, DEPTH)
        total = tl.load(totals + query, mask=is_row, other=1.0)[:, None]
        share = tl.load(shares + query, mask=is_row, other=0.0)[:, None]
        logits = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
        logits += bias_tile(bias, is_key, head, height, i, j, key, is_near, NEAR * WINDOW)
        products = row_products(
            grad, query, is_row, values, key, is_near, VALUE_DIM, SLICE, PRECISION
        )
        given += slope(logits, count, total, IS_SOFTMAX) * (products - share)
    target = parts + (tl.program_id(0).to(tl.int64) * height + i)[:, None] * (NEAR * WINDOW)
    tl.store(target + j[None, :], given, mask=is_row[:, None] & is_near[None, :])
