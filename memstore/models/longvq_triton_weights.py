"""What the kernels of factored attention have in common: rows of matrices, logits, weights."""

from __future__ import annotations

import math

import torch
import triton.language as tl

from memstore.codec.kernels.gpu_compiler import compiled
from memstore.models.longvq_groups import LAPLACE_DEVIATION, LAPLACE_MEAN, masked_logit

MASKED = tl.constexpr(masked_logit(torch.float32))
_MEAN = tl.constexpr(LAPLACE_MEAN)
_SCALE = tl.constexpr(1 / (LAPLACE_DEVIATION * math.sqrt(2)))
_PEAK = tl.constexpr(1 / (LAPLACE_DEVIATION * math.sqrt(2 * math.pi)))


@compiled
def load_rows(
    source: tl.tensor,
    rows: tl.tensor,
    is_row: tl.tensor,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
) -> tl.tensor:
    """Return (len(rows), PADDED) of a matrix WIDTH wide, zeros beyond it."""
    column = tl.arange(0, PADDED)
    places = source + rows.to(tl.int64)[:, None] * WIDTH + column[None, :]
    is_there = is_row[:, None] & (column < WIDTH)[None, :]
    return tl.load(places, mask=is_there, other=0.0)


@compiled
def row_products(
    left: tl.tensor,
    left_rows: tl.tensor,
    is_left: tl.tensor,
    right: tl.tensor,
    right_rows: tl.tensor,
    is_right: tl.tensor,
    WIDTH: tl.constexpr,
    SLICE: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """Return the inner products of rows of two wide matrices: (left_rows, right_rows).

    A slice at a time: rows of 256, each cut in two for TF32, would leave no registers.
    """
    made = tl.zeros((left_rows.shape[0], right_rows.shape[0]), tl.float32)
    for start in range(0, WIDTH, SLICE):
        column = start + tl.arange(0, SLICE)
        is_column = (column < WIDTH)[None, :]
        x = tl.load(
            left + left_rows.to(tl.int64)[:, None] * WIDTH + column[None, :],
            mask=is_left[:, None] & is_column,
            other=0.0,
        )
        y = tl.load(
            right + right_rows.to(tl.int64)[:, None] * WIDTH + column[None, :],
            mask=is_right[:, None] & is_column,
            other=0.0,
        )
        made = tl.dot(x, tl.trans(y), made, input_precision=PRECISION)
    return made


@compiled
def store_rows(
    target: tl.tensor,
    rows: tl.tensor,
    is_row: tl.tensor,
    values: tl.tensor,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
) -> None:
    """Write (len(rows), PADDED) into a matrix WIDTH wide."""
    column = tl.arange(0, PADDED)
    places = target + rows.to(tl.int64)[:, None] * WIDTH + column[None, :]
    is_there = is_row[:, None] & (column < WIDTH)[None, :]
    tl.store(places, values, mask=is_there)


@compiled
def bias_tile(
    bias: tl.tensor,
    is_key: tl.tensor,
    head: int,
    height: int,
    i: tl.tensor,
    j: tl.tensor,
    key: tl.tensor,
    is_near: tl.tensor,
    NUM_NEAR: tl.constexpr,
) -> tl.tensor:
    """Return what is added to the logits of queries i of a block and its near keys j: (i, j).

    `key` is where keys j are among all. Much less is added where there is no key; finite, so that a
    query that sees nothing is not NaN.
    """
    rows = (head * height + i).to(tl.int64)
    is_there = (i < height)[:, None] & is_near[None, :]
    added = tl.load(bias + rows[:, None] * NUM_NEAR + j[None, :], mask=is_there, other=0.0)
    is_present = tl.load(is_key + key, mask=is_near, other=1) != 0
    return added + tl.where(is_present, 0.0, MASKED)[None, :]


@compiled
def last_near(tile: int, ROWS: tl.constexpr, WINDOW: tl.constexpr, NEAR: tl.constexpr) -> tl.tensor:
    """Return how many of its near keys a tile of queries can see."""
    last = NEAR * WINDOW
    if NEAR == 2:
        last = tl.minimum(last, WINDOW + (tile + 1) * ROWS)
    return last


@compiled
def laplace(logits: tl.tensor) -> tl.tensor:
    """Return ½·erfc((μ - x) / (σ·√2)), accurate where it is small.

    Source: `erfcc` of Numerical Recipes, §6.2, whose error is 1.2e-7 of the value.
    """
    z = (_MEAN - logits) * _SCALE
    a = tl.abs(z)
    t = 1.0 / (1.0 + 0.5 * a)
    p = -0.82215223 + t * 0.17087277
    p = -1.13520398 + t * (1.48851587 + t * p)
    p = -0.18628806 + t * (0.27886807 + t * p)
    p = 0.37409196 + t * (0.09678418 + t * p)
    p = -1.26551223 + t * (1.00002368 + t * p)
    tail = 0.5 * t * tl.exp(p - a * a)
    return tl.where(z >= 0, tail, 1.0 - tail)


@compiled
def weigh(
    logits: tl.tensor, counts: tl.tensor, totals: tl.tensor, IS_SOFTMAX: tl.constexpr
) -> tl.tensor:
    """Return the weight of one of the keys behind a logit, none where there are none.

    Args:
        logits: float32.
        counts: how many keys stand behind a logit.
        totals: of the queries, as `attend` leaves them.
        IS_SOFTMAX: else Laplace.
    """
    weights = tl.exp(logits - totals) if IS_SOFTMAX else laplace(logits) / totals
    return tl.where(counts > 0, weights, 0.0)


@compiled
def slope(
    logits: tl.tensor, counts: tl.tensor, totals: tl.tensor, IS_SOFTMAX: tl.constexpr
) -> tl.tensor:
    """Return how that weight grows with its logit if the query's total stays."""
    if IS_SOFTMAX:
        slopes = tl.exp(logits - totals)
    else:
        z = (logits - _MEAN) * _SCALE
        slopes = _PEAK * tl.exp(-z * z) / totals
    return tl.where(counts > 0, slopes, 0.0)
