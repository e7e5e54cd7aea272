"""Kernels of factored attention: sums by code, running sums, and attention to sums and near keys.

A program of `attend` holds a tile of queries of one block and goes through the codes and the near
keys, a tile at a time, with the largest logit and the sum of weights so far: scores never leave the
chip. It weighs sums rather than means: a sum times the weight of one of its keys is the mean times
the weight of all.
"""

from __future__ import annotations

import triton.language as tl

from memstore.codec.kernels.gpu_compiler import compiled
from memstore.models.longvq_triton_weights import (
    MASKED,
    bias_tile,
    laplace,
    last_near,
    load_rows,
    store_rows,
)


@compiled
def sum_by_code(
    values: tl.tensor,
    codes: tl.tensor,
    table: tl.tensor,
    row_stride: int,
    first_row: int,
    first_block: int,
    last_block: int,
    num_blocks: int,
    num_slots: int,
    step: int,
    WINDOW: tl.constexpr,
    NUM_CODES: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    PARTS: tl.constexpr,
    PIECE: tl.constexpr,
    CODES: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Add up the values of `step` key blocks by code, for each slot of a (rows, slots, S, E) table.

    With two PARTS the block three behind each is taken away. A product with ones and zeros is exact
    in bfloat16, and a float32 is the sum of three of these, so sums are of float32 values.
    """
    place = tl.program_id(0)
    part = place // num_slots
    slot = place % num_slots
    row = (first_row + part).to(tl.int64)
    c = tl.program_id(1) * CODES + tl.arange(0, CODES)
    e = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = e < VALUE_DIM
    sums = tl.zeros((CODES, COLUMNS), tl.float32)
    first = first_block + slot * step
    for block in range(first, tl.minimum(first + step, last_block)):
        for back in tl.static_range(PARTS):
            begin = (row * num_blocks + block + 3 * back) * WINDOW
            num_tokens = tl.where(block + 3 * back < num_blocks, WINDOW, 0)
            for start in range(0, WINDOW, TOKENS):
                w = start + tl.arange(0, TOKENS)
                is_token = w < num_tokens
                code = tl.load(codes + begin + w, mask=is_token, other=-1)
                is_value = is_token[:, None] & is_column[None, :]
                source = values + (begin + w)[:, None] * VALUE_DIM + e[None, :]
                x = tl.load(source, mask=is_value, other=0.0)
                ones = tl.where(c[:, None] == code[None, :], 1.0 - 2.0 * back, 0.0).to(PIECE)
                # Cut off, not rounded: each piece holds 8 bits more, and the rest is exact.
                high = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
                rest = x - high
                middle = (rest.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
                sums = tl.dot(ones, (rest - middle).to(PIECE), sums, input_precision="ieee")
                sums = tl.dot(ones, middle.to(PIECE), sums, input_precision="ieee")
                sums = tl.dot(ones, high.to(PIECE), sums, input_precision="ieee")
    target = table + part.to(tl.int64) * row_stride
    target += (slot.to(tl.int64) * NUM_CODES + c)[:, None] * VALUE_DIM + e[None, :]
    tl.store(target, sums, mask=(c < NUM_CODES)[:, None] & is_column[None, :])


@compiled
def run_on(
    table: tl.tensor, num_slots: int, size: int, SLOTS: tl.constexpr, COLUMNS: tl.constexpr
) -> None:
    """Replace each slot of a (rows, slots, size) table by the sum of it and all before it."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    slot = tl.arange(0, SLOTS)
    begin = table + tl.program_id(0).to(tl.int64) * num_slots * size
    so_far = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, num_slots, SLOTS):
        here = first + slot
        places = begin + here.to(tl.int64)[:, None] * size + column[None, :]
        is_there = (here < num_slots)[:, None] & (column < size)[None, :]
        given = tl.load(places, mask=is_there, other=0.0)
        # A place is written with what was read from it, so never before.
        tl.store(places, so_far[None, :] + tl.cumsum(given, axis=0), mask=is_there)
        so_far += tl.sum(given, axis=0)


@compiled
def _absorb(
    logits: tl.tensor,
    counts: tl.tensor,
    sums: tl.tensor,
    top: tl.tensor,
    total: tl.tensor,
    seen: tl.tensor,
    IS_SOFTMAX: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tuple:
    """Take in a tile of logits: (ROWS, COLUMNS), of `counts` keys each, whose values make `sums`.

    Returns `top`, the largest logit of all keys of a code or one key, and `total` and `seen`, the
    weights and the weighted values so far, relative to it.
    """
    is_there = (counts > 0)[None, :]
    if IS_SOFTMAX:
        raised = tl.where(is_there, logits + tl.log(tl.maximum(counts, 1.0))[None, :], MASKED)
        new_top = tl.maximum(top, tl.max(raised, axis=1))
        weights = tl.where(is_there, tl.exp(logits - new_top[:, None]), 0.0)
        kept = tl.exp(top - new_top)
        total = total * kept
        seen = seen * kept[:, None]
        top = new_top
    else:
        weights = tl.where(is_there, laplace(logits), 0.0)
    total += tl.sum(weights * counts[None, :], axis=1)
    seen = tl.dot(weights, sums, seen, input_precision=PRECISION)
    return top, total, seen


@compiled
def attend(
    queries: tl.tensor,
    near_keys: tl.tensor,
    values: tl.tensor,
    codebook: tl.tensor,
    bias: tl.tensor,
    is_key: tl.tensor,
    counts: tl.tensor,
    sums: tl.tensor,
    output: tl.tensor,
    totals: tl.tensor,
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
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    IS_SOFTMAX: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Attend from a tile of queries, and leave the totals that the backward pass needs.

    These are the logarithm of the sum of exp(logit), or Laplace's divisor.
    """
    place = tl.program_id(0)
    part = place // span
    block = first_block + place % span
    row = (first_row + part).to(tl.int64)
    head = (first_row + part) % HEADS
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    is_row = i < height
    here = row * num_blocks + block
    slot = part.to(tl.int64) * (span + 1) + place % span
    q = load_rows(queries, here * height + i, is_row, KEY_DIM, DEPTH)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    seen = tl.zeros((ROWS, WIDTH), tl.float32)
    for first in range(0, NUM_CODES, COLUMNS):
        c = first + tl.arange(0, COLUMNS)
        is_code = c < NUM_CODES
        count = tl.load(counts + here * NUM_CODES + c, mask=is_code, other=0.0)
        keys = load_rows(codebook, head * NUM_CODES + c, is_code, KEY_DIM, DEPTH)
        far = load_rows(sums, slot * NUM_CODES + c, is_code, VALUE_DIM, WIDTH)
        logits = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
        top, total, seen = _absorb(logits, count, far, top, total, seen, IS_SOFTMAX, PRECISION)
    begin = (row * (num_blocks + NEAR - 1) + block) * WINDOW
    for first in range(0, last_near(tl.program_id(1), ROWS, WINDOW, NEAR), COLUMNS):
        j = first + tl.arange(0, COLUMNS)
        is_near = j < NEAR * WINDOW
        keys = load_rows(near_keys, begin + j, is_near, KEY_DIM, DEPTH)
        tokens = load_rows(values, begin + j, is_near, VALUE_DIM, WIDTH)
        logits = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
        logits += bias_tile(bias, is_key, head, height, i, j, begin + j, is_near, NEAR * WINDOW)
        count = tl.where(is_near, 1.0, 0.0)
        top, total, seen = _absorb(logits, count, tokens, top, total, seen, IS_SOFTMAX, PRECISION)
    if IS_SOFTMAX:
        divisor = total
        total = top + tl.log(total)
    else:
        total += 1.0
        divisor = total
    tl.store(totals + here * height + i, total, mask=is_row)
    store_rows(output, here * height + i, is_row, seen / divisor[:, None], VALUE_DIM, WIDTH)
