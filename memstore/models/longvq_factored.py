"""Attention over a band and over codes as one autograd function, which keeps no scores.

Keys come in blocks of W tokens. A block of queries sees its own block and the one before it (and
the one after it) token by token. All keys beyond are one of S centroids, and those of one centroid
have one logit: together they are a single key whose value is the mean of theirs and whose logit is
raised by the logarithm of their number. So each block of queries attends to S + 2W (3W) keys,
exactly as if to all L.

Forward and backward work on some blocks at a time; scores are made anew in the backward pass.
Memory is O(L·width), and S·width for the blocks at hand. On a GPU with Triton, `longvq_triton` does
the same without scores in memory.

Source: Transformer-VQ (arXiv 2309.16354) for blocks and sums; Laplace: MEGA (arXiv 2209.10655).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from memstore.models.longvq_groups import BlockTensors, Group, Layout, groups
from memstore.models.longvq_moments import FarKeyGradient
from memstore.models.longvq_sums import FarGradient


class FactoredAttention(torch.autograd.Function):
    """See the module. Gradients reach queries, near keys, all values, centroids and bias.

    Inputs: queries (R, A, r, K); near_keys (R, A', W, K) and values (R, A', W, E), zeros where
    there is no token; codebook (H, S, K); bias (H, r, num_near·W), minus much where a query must
    not look; layout. Output: (R, A, r, E). r is W, or less if there is one block of queries.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        near_keys: torch.Tensor,
        values: torch.Tensor,
        codebook: torch.Tensor,
        bias: torch.Tensor,
        layout: Layout,
    ) -> torch.Tensor:
        """Attend; torch calls this."""
        tensors = BlockTensors(queries, near_keys, values, codebook, bias)
        fused = _fused(tensors)
        output: torch.Tensor
        totals: torch.Tensor | None = None  # of the scores, which only the kernels keep
        with torch.autocast(queries.device.type, enabled=False):
            if fused is not None:
                output, totals = fused.attend(tensors, layout)
            else:
                output = _attend(tensors, layout)
        ctx.save_for_backward(*tensors, output, totals)
        ctx.layout = layout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Make the scores anew and return a gradient for each input; torch calls this."""
        *inputs, output, totals = ctx.saved_tensors
        tensors, layout, grad = BlockTensors(*inputs), ctx.layout, grad.contiguous()
        wants_codebook, wants_bias = ctx.needs_input_grad[3:5]
        fused = _kernels() if totals is not None else None
        with torch.autocast(grad.device.type, enabled=False):
            if fused is None:
                return *_gradients(tensors, layout, output, grad, wants_codebook), None
            wanted = {"wants_codebook": wants_codebook, "wants_bias": wants_bias}
            return *fused.gradients(tensors, layout, output, totals, grad, **wanted), None


@cache
def _kernels() -> ModuleType | None:
    """Return `longvq_triton` where Triton is installed."""
    has_triton = find_spec("triton") is not None
    return import_module("memstore.models.longvq_triton") if has_triton else None


def _fused(tensors: BlockTensors) -> ModuleType | None:
    """Return what does the same for these tensors in Triton, if that can."""
    kernels = _kernels()
    return kernels if kernels is not None and kernels.can_run(tensors) else None


def _attend(tensors: BlockTensors, layout: Layout) -> torch.Tensor:
    """Return (R, A, r, E)."""
    queries, _, values, _, _ = tensors
    output = queries.new_empty(*queries.shape[:3], values.shape[3])
    for group in groups(tensors, layout):
        weights, _ = group.weights(group.scores())
        far, band = group.parted(weights)
        seen = torch.bmm(band, group.near(values))
        if group.num_codes:
            seen.baddbmm_(far, group.means)
        group.put(output, seen)
    return output


def _gradients(
    tensors: BlockTensors,
    layout: Layout,
    output: torch.Tensor,
    grad: torch.Tensor,
    wants_codebook: bool,
) -> BlockTensors:
    """Return the gradient of each tensor, from that of the output."""
    grads = BlockTensors(*(torch.zeros_like(each) for each in tensors))
    far: _FarGradients | None = None
    for group in groups(tensors, layout):
        if group.blocks.start == 0:
            far = _far_gradients(grads, group)
        _add_gradients(grads, group, group.of(grad), group.of(output), far, wants_codebook)
        if far is not None and group.is_last:
            far.finish()
    return grads


@dataclass(frozen=True, slots=True, eq=False)
class _FarGradients:
    """What takes gradients beyond the near blocks: of values, and of keys if they get any."""

    values: FarGradient
    keys: FarKeyGradient | None

    def finish(self) -> None:
        self.values.finish()
        if self.keys is not None:
            self.keys.finish()


def _far_gradients(grads: BlockTensors, group: Group) -> _FarGradients | None:
    """Return them for the rows of a group, before its first block; None if it sees no codes."""
    if not group.num_codes:
        return None
    rows, layout, num_blocks = group.rows, group.layout, group.tensors.queries.shape[1]
    codes, is_key, is_causal = layout.codes[rows], layout.is_key[rows], layout.is_causal
    into, shape = grads.values[rows], (group.num_codes, num_blocks)
    sides = is_key[..., None].to(into.dtype)
    values = FarGradient(into, codes, sides, *shape, is_causal=is_causal)
    if not layout.moment_width:
        return _FarGradients(values, None)
    keys = FarKeyGradient(
        grads.near_keys[rows],
        group.tensors.values[rows],
        codes,
        *shape,
        is_key=is_key,
        width=layout.moment_width,
        is_causal=is_causal,
    )
    return _FarGradients(values, keys)


def _add_gradients(
    grads: BlockTensors,
    group: Group,
    grad: torch.Tensor,
    output: torch.Tensor,
    far: _FarGradients | None,
    wants_codebook: bool,
) -> None:
    """Add the gradients of a group, from that of what it gave: (g, r, E)."""
    tensors, queries = group.tensors, group.of(group.tensors.queries)
    scores = group.scores()
    weights, divisor = group.weights(scores)
    slopes = group.slopes(scores, weights, divisor)
    shares = (grad * output).sum(-1, keepdim=True)
    logits = torch.empty_like(scores)  # their gradient; first that of the weights
    of_codes, band = group.parted(logits)
    torch.bmm(grad, group.near(tensors.values).mT, out=band)
    if far is not None:
        torch.bmm(grad, group.means.mT, out=of_codes)
    logits.sub_(shares).mul_(slopes)
    far_weights, near_weights = group.parted(weights)
    group.add_to_near(grads.values, torch.bmm(near_weights.mT, grad))
    group.add_to_near(grads.near_keys, torch.bmm(band.mT, queries))
    group.add_to_heads(grads.bias, band)
    asked = torch.bmm(band, group.near(tensors.near_keys))
    if far is not None:
        asked.baddbmm_(of_codes, group.of_heads(tensors.codebook))
        if wants_codebook:
            group.add_to_heads(grads.codebook, torch.bmm(of_codes.mT, queries))
        part = 1 / group.counts.clamp(min=1)[..., None]  # of one key in a mean
        for of_block in group.by_row(torch.bmm(far_weights.mT, grad).mul_(part)).unbind(1):
            far.values.table[:, :, 0].add_(of_block)
            far.values.advance()
        if far.keys is not None:
            of_one = (each * part.mT for each in (group.parted(slopes)[0], of_codes))
            far.keys.add(*(group.by_row(each) for each in (*of_one, queries, grad, group.means)))
    group.put(grads.queries, asked)
