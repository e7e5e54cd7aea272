"""The gradient of factored attention on a GPU; see `longvq_triton`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton

from memstore.codec.kernels.gpu_compiler import next_power_of_two, on_device_of
from memstore.models.longvq_groups import BlockTensors, Layout
from memstore.models.longvq_moments import draw_projection
from memstore.models.longvq_triton_backward import bias_gradient, near_gradient, query_gradient
from memstore.models.longvq_triton_call import Call, Part
from memstore.models.longvq_triton_far import centroid_gradient, far_products, give

_AHEAD = 3  # key blocks from a block of queries to the first that it does not see one by one
_BIAS_PARTS = 128  # in which the gradient of a head's bias is summed up at once


def gradients(
    tensors: BlockTensors,
    layout: Layout,
    output: torch.Tensor,
    totals: torch.Tensor,
    grad: torch.Tensor,
    *,
    wants_codebook: bool,
    wants_bias: bool,
) -> tuple[torch.Tensor | None, ...]:
    """Return the gradient of each tensor; None for those that are not wanted.

    Args:
        tensors: as given to `attend`.
        layout: likewise.
        output: what `attend` returned.
        totals: likewise.
        grad: (R, A, r, E) float32, of the output.
        wants_codebook: else the centroids get none.
        wants_bias: else the bias gets none.
    """
    call, grad = Call.of(tensors, layout), grad.contiguous()
    shares = (grad * output).sum(-1)
    of_queries, of_keys, of_values = (each.new_empty(each.shape) for each in tensors[:3])
    of_codebook = None
    with on_device_of(grad):
        _near(call, grad, totals, shares, of_keys, of_values)
        of_bias = _bias(call, grad, totals, shares) if wants_bias else None
        far = _far_gradients(call, grad, totals, shares, of_keys, of_values)
        if wants_codebook:
            of_codebook = totals.new_zeros(len(of_queries), *tensors.codebook.shape[1:])
        for part in call.parts(max(each.size for each in far)):
            arguments = *call.tensors, call.is_key, call.counts, part.sums
            of_part = grad, totals, shares, of_queries
            call.launch_queries(query_gradient, part, *arguments, *of_part)
            if not call.sizes["NUM_CODES"]:
                continue
            for each in far:
                each.add(part)
            if of_codebook is not None:
                table = _centroids(call, part, part.sums, grad, totals, shares)
                of_codebook[part.rows] += table.sum(1)
    if of_codebook is not None:
        num_texts = len(of_codebook) // len(tensors.codebook)
        of_codebook = of_codebook.view(num_texts, *tensors.codebook.shape).sum(0)
    return of_queries, of_keys, of_values, of_codebook, of_bias


Fill = Callable[[torch.Tensor, Part], None]
"""Write what each block of a part's queries has for each code: (rows, blocks, S, n)."""


class _FarGradient:
    """What far keys or their values get, part after part.

    Args:
        call: the call.
        into: (R, A', W, n), what it is added to.
        key_sides: (R, A', W, t), with which keys take what their codes have: (t, n) numbers.
        fill: makes the table of what codes have.
    """

    def __init__(self, call: Call, into: torch.Tensor, key_sides: torch.Tensor, fill: Fill) -> None:
        self._call, self._into, self._fill = call, into, fill
        self._key_sides = key_sides.contiguous()
        self._width = into.shape[3] * key_sides.shape[3]
        self._so_far: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """Numbers of its table for a block."""
        return int(self._call.sizes["NUM_CODES"] * self._width)

    def add(self, part: Part) -> None:
        """Take in the next part of the queries.

        A key block is seen through codes by the query blocks after it: it gets what all of them
        gave, at the end, less what those up to it gave; and if attention looks ahead, by those
        three or more before it.
        """
        call, last = self._call, self._call.num_blocks - 1
        shape = part.num_rows, part.span + 1, call.sizes["NUM_CODES"], self._width
        table = self._into.new_empty(shape)
        is_first, is_last = part.blocks.start == 0, part.blocks.stop == last + 1
        table[:, 0] = 0 if is_first or self._so_far is None else self._so_far
        self._fill(table[:, 1:], part)
        call.run(table)
        self._so_far = table[:, -1].clone()
        start, stop = part.blocks.start, min(part.blocks.stop, last)
        by_block = table[:, 1:]
        self._give(by_block, part.rows, start, stop, -1)
        if not call.layout.is_causal:
            self._give(by_block, part.rows, start + _AHEAD, stop + _AHEAD, 1)
        if is_last:
            all_blocks = self._so_far[:, None].expand(-1, max(1, last), -1, -1)
            self._give(all_blocks, part.rows, 0, last, 1)

    def _give(
        self, table: torch.Tensor, rows: slice, first_block: int, last_block: int, sign: int
    ) -> None:
        """Add `sign` times what (rows, blocks, S, n) has to the keys of these blocks."""
        span = last_block - first_block
        if span < 1:
            return
        call, keys = self._call, 32
        dim, side = self._into.shape[3], self._key_sides.shape[3]
        columns = min(64, next_power_of_two(dim))
        grid = (
            (rows.stop - rows.start) * span,
            triton.cdiv(call.sizes["WINDOW"], keys),
            triton.cdiv(dim, columns),
        )
        tensors = table, call.layout.codes, self._key_sides, self._into
        strides = float(sign), table.stride(0), table.stride(1)
        place = rows.start, first_block, span, call.num_key_blocks
        call.launch(
            give, grid, *tensors, *strides, *place, DIM=dim, SIDE=side, KEYS=keys, COLUMNS=columns
        )


def _far_gradients(
    call: Call,
    grad: torch.Tensor,
    totals: torch.Tensor,
    shares: torch.Tensor,
    of_keys: torch.Tensor,
    of_values: torch.Tensor,
) -> list[_FarGradient]:
    """Return what far values get, and far keys if there are to be moments."""
    is_key = call.layout.is_key[..., None].to(grad.dtype)
    far = [_FarGradient(call, of_values, is_key, _products(call, grad, totals, is_moment=False))]
    if not call.layout.moment_width:
        return far
    values, asked = call.tensors.values, grad
    projection = draw_projection(values, call.layout.moment_width)
    if projection is not None:
        values, asked = values @ projection, asked @ projection

    def fill_rest(table: torch.Tensor, part: Part) -> None:
        """Write what of a key's gradient does not depend on its value."""
        sums = torch.zeros_like(part.sums)
        if projection is not None:
            sums = part.sums - part.sums @ projection @ projection.T
        made = _centroids(call, part, sums, grad, totals, shares)
        table.copy_(made / call.counts[part.rows, part.blocks, :, None].clamp(min=1))

    moments = _products(call, asked, totals, is_moment=True)
    far.append(_FarGradient(call, of_keys, values, moments))
    far.append(_FarGradient(call, of_keys, is_key, fill_rest))
    return far


def _products(call: Call, sides: torch.Tensor, totals: torch.Tensor, *, is_moment: bool) -> Fill:
    """Return what adds up weights of queries times their sides.

    Args:
        call: the call.
        sides: (R, A, r, s).
        totals: as of `gradients`.
        is_moment: instead, slopes times their moments: a side times the query, s·K numbers.
    """
    sides, columns = sides.contiguous(), 64

    def fill(table: torch.Tensor, part: Part) -> None:
        grid = (
            part.num_rows * part.span,
            triton.cdiv(table.shape[2], call.sizes["CODES"]),
            triton.cdiv(table.shape[3], columns),
        )
        queries, _, _, codebook, _ = call.tensors
        call.launch(
            far_products,
            grid,
            *(queries, sides, codebook, call.counts, totals),
            *(table, table.stride(0)),
            *(part.rows.start, part.blocks.start, part.span, call.num_blocks, call.height),
            SIDE=sides.shape[3],
            IS_MOMENT=is_moment,
            COLUMNS=columns,
        )

    return fill


def _near(
    call: Call,
    grad: torch.Tensor,
    totals: torch.Tensor,
    shares: torch.Tensor,
    of_keys: torch.Tensor,
    of_values: torch.Tensor,
) -> None:
    """Write what keys and values get from the queries that see them one by one."""
    queries, near_keys, values, _, bias = call.tensors
    tiles = triton.cdiv(call.sizes["WINDOW"], call.sizes["COLUMNS"])
    call.launch(
        near_gradient,
        (len(values) * call.num_key_blocks, tiles),
        *(queries, near_keys, values, bias, call.is_key),
        *(grad, totals, shares, of_keys, of_values),
        *(call.num_blocks, call.height),
        num_warps=8,
    )


def _bias(
    call: Call, grad: torch.Tensor, totals: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    """Return the gradient of the bias: (H, r, near)."""
    queries, near_keys, values, _, bias = call.tensors
    num_texts = len(queries) // len(bias)
    step = triton.cdiv(num_texts * call.num_blocks, _BIAS_PARTS)
    num_parts = triton.cdiv(num_texts * call.num_blocks, step)
    parts = totals.new_empty(len(bias), num_parts, *bias.shape[1:])
    grid = (
        len(bias) * num_parts,
        triton.cdiv(call.height, call.sizes["ROWS"]),
        triton.cdiv(bias.shape[2], call.sizes["COLUMNS"]),
    )
    call.launch(
        bias_gradient,
        grid,
        *(queries, near_keys, values, bias, call.is_key, grad, totals, shares, parts),
        *(num_parts, step, num_texts, call.num_blocks, call.height),
        num_warps=8,
    )
    return parts.sum(1)


def _centroids(
    call: Call,
    part: Part,
    sums: torch.Tensor,
    grad: torch.Tensor,
    totals: torch.Tensor,
    shares: torch.Tensor,
) -> torch.Tensor:
    """Return what the centroids get from a part if their values add up so: (rows, blocks, S, K)."""
    queries, _, _, codebook, _ = call.tensors
    table = totals.new_empty(part.num_rows, part.span, *codebook.shape[1:])
    grid = part.num_rows * part.span, triton.cdiv(codebook.shape[1], call.sizes["CODES"])
    place = part.rows.start, part.blocks.start, part.span, call.num_blocks, call.height
    call.launch(
        centroid_gradient,
        grid,
        *(queries, codebook, call.counts, sums, grad, totals, shares, table),
        *place,
        num_warps=8,
    )
    return table
