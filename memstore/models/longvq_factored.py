"""Attention over a band and over codes as one autograd function, which keeps no scores.

Keys come in blocks of W tokens. A block of queries sees its own block and the one before it (and
the one after it) token by token. All keys beyond are one of S centroids, and those of one centroid
have one logit: together they are a single key whose value is the mean of theirs and whose logit is
raised by the logarithm of their number. So each block of queries attends to S + 2W (3W) keys,
exactly as if to all L.

Forward and backward work on some blocks at a time; scores are made anew in the backward pass.
Memory is O(L·width), and S·width for the blocks at hand.

Source: Transformer-VQ (arXiv 2309.16354) for blocks and sums; Laplace: MEGA (arXiv 2209.10655).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from memstore.models.longvq_config import Weighting
from memstore.models.longvq_moments import FarKeyGradient
from memstore.models.longvq_sums import FarGradient, FarSums, far_counts

# MEGA: Laplace is where x² crosses with the same slope: μ = √½, σ = √(1 / 4π).
LAPLACE_MEAN = math.sqrt(0.5)
LAPLACE_DEVIATION = math.sqrt(0.25 / math.pi)
# Scores at a time: 4 MiB, most of a processor's cache.
_SCORES = 1 << 20
_CUDA_SCORES = 1 << 26


def masked_logit(dtype: torch.dtype) -> float:
    """Return the logit of what is not there: finite, so that nothing at all is not NaN."""
    return torch.finfo(dtype).min / 8


def laplace(logits: torch.Tensor) -> torch.Tensor:
    """Return ½·(1 + erf((x - μ) / (σ·√2))), accurate where it is small."""
    scaled = (LAPLACE_MEAN - logits) / (LAPLACE_DEVIATION * math.sqrt(2))
    weights: torch.Tensor = torch.special.erfc(scaled)
    return weights / 2


def _laplace_slope(logits: torch.Tensor) -> torch.Tensor:
    scaled = (logits - LAPLACE_MEAN) / LAPLACE_DEVIATION
    return torch.exp(scaled.square() / -2) / (LAPLACE_DEVIATION * math.sqrt(2 * math.pi))


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How keys lie in blocks. One block more than of queries lies before, and one behind as well.

    Attributes:
        codes: (R, A', W) int64, of the keys; R = B·H.
        is_key: (R, A', W) bool; False: there is no token.
        past_sums: (R, S, E), values by code that all queries see.
        past_counts: (R, S), how many those are.
        weighting: from logits to weights.
        is_causal: no block lies behind.
        moment_width: near keys also get the gradient of queries that see them through their codes,
            by moments so wide (`longvq_moments`); 0: they do not.
    """

    codes: torch.Tensor
    is_key: torch.Tensor
    past_sums: torch.Tensor
    past_counts: torch.Tensor
    weighting: Weighting
    is_causal: bool
    moment_width: int = 0

    @property
    def num_near(self) -> int:
        """Blocks that a block of queries sees token by token."""
        return 2 if self.is_causal else 3


class FactoredAttention(torch.autograd.Function):
    """See the module. Gradients reach queries, near keys, all values, centroids and bias.

    Inputs: queries (R, A, r, K); near_keys (R, A', W, K) and values (R, A', W, E), zeros where
    there is no token; codebook (H, S, K); bias (H, r, num_near·W), minus much where a query must
    not look; layout. Output: (R, A, r, E). r is W, or less if there is one block of queries.
    """

    @staticmethod
    def forward(  # noqa: D102 - torch's
        ctx: Any,
        queries: torch.Tensor,
        near_keys: torch.Tensor,
        values: torch.Tensor,
        codebook: torch.Tensor,
        bias: torch.Tensor,
        layout: Layout,
    ) -> torch.Tensor:
        tensors = _Tensors(queries, near_keys, values, codebook, bias)
        output = queries.new_empty(*queries.shape[:3], values.shape[3])
        for group in _groups(tensors, layout):
            weights, _ = group.weights(group.scores())
            far, band = group.parted(weights)
            seen = torch.bmm(band, group.near(values))
            if group.num_codes:
                seen.baddbmm_(far, group.means)
            group.put(output, seen)
        ctx.save_for_backward(*tensors, output)
        ctx.layout = layout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: D102
        *inputs, output = ctx.saved_tensors
        tensors, grad = _Tensors(*inputs), grad.contiguous()
        grads = _Tensors(*(torch.zeros_like(each) for each in tensors))
        far: _FarGradients | None = None
        wants_codebook = ctx.needs_input_grad[3]
        for group in _groups(tensors, ctx.layout):
            if group.blocks.start == 0:
                far = _far_gradients(grads, group)
            _add_gradients(grads, group, group.of(grad), group.of(output), far, wants_codebook)
            if far is not None and group.is_last:
                far.finish()
        return *grads, None


class _Tensors(NamedTuple):
    """What is differentiated by."""

    queries: torch.Tensor
    near_keys: torch.Tensor
    values: torch.Tensor
    codebook: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Some blocks of some rows, that are worked on at once: g blocks together.

    Attributes:
        tensors: of the call.
        layout: of the call.
        rows: of R.
        blocks: of A.
        counts: (g, S), far keys of each code.
        means: (g, S, E), of their values.
    """

    tensors: _Tensors
    layout: Layout
    rows: slice
    blocks: slice
    counts: torch.Tensor
    means: torch.Tensor

    @property
    def num_codes(self) -> int:
        return self.counts.shape[1]

    @property
    def is_last(self) -> bool:
        return bool(self.blocks.stop == self.tensors.queries.shape[1])

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return (g, …) of (R, A, …)."""
        return tensor[self.rows, self.blocks].flatten(0, 1)

    def put(self, into: torch.Tensor, part: torch.Tensor) -> None:
        """Write (g, …) into (R, A, …)."""
        place = into[self.rows, self.blocks]
        place.copy_(part.view_as(place))

    def near(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return (g, num_near·W, …) of (R, A', W, …); a view if the group is of one row."""
        span = self.layout.num_near
        chosen = tensor[self.rows, self.blocks.start : self.blocks.stop + span - 1]
        return chosen.unfold(1, span, 1).movedim(-1, 2).flatten(2, 3).flatten(0, 1)

    def of_heads(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return (g, …) of (H, …)."""
        num_blocks = self.blocks.stop - self.blocks.start
        per_row = tensor[self._heads(tensor)][:, None]
        return per_row.expand(-1, num_blocks, *tensor.shape[1:]).flatten(0, 1)

    def add_to_heads(self, into: torch.Tensor, part: torch.Tensor) -> None:
        """Add (g, …) up into (H, …)."""
        per_row = part.view(self.rows.stop - self.rows.start, -1, *part.shape[1:]).sum(1)
        into.index_add_(0, self._heads(into), per_row)

    def by_block(self, part: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return (rows, …) for each block, of (g, …)."""
        num_rows = self.rows.stop - self.rows.start
        return part.view(num_rows, -1, *part.shape[1:]).unbind(1)

    def add_to_near(self, into: torch.Tensor, part: torch.Tensor) -> None:
        """Add (g, num_near·W, …) into (R, A', W, …)."""
        width, start, stop = into.shape[2], self.blocks.start, self.blocks.stop
        windows = part.view(-1, stop - start, *part.shape[1:])
        for place in range(self.layout.num_near):
            piece = windows[:, :, place * width : (place + 1) * width]
            into[self.rows, start + place : stop + place] += piece

    def parted(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is of the codes and what is of the near keys."""
        return scores[..., : self.num_codes], scores[..., self.num_codes :]

    def scores(self) -> torch.Tensor:
        """Return (g, r, S + num_near·W) logits."""
        queries, masked = self.of(self.tensors.queries), masked_logit(self.means.dtype)
        bias = self.of_heads(self.tensors.bias)
        scores = queries.new_empty(*bias.shape[:2], self.num_codes + bias.shape[2])
        far, band = self.parted(scores)
        is_key = self.near(self.layout.is_key[..., None])
        absent = queries.new_zeros(is_key.shape).masked_fill_(~is_key, masked)
        torch.add(bias, absent.mT, out=band)
        band.baddbmm_(queries, self.near(self.tensors.near_keys).mT)
        if self.num_codes:
            is_softmax = self.layout.weighting is Weighting.SOFTMAX
            numbers = self.counts if is_softmax else torch.ones_like(self.counts)
            far.copy_(numbers.log().clamp(min=masked)[:, None])
            far.baddbmm_(queries, self.of_heads(self.tensors.codebook).mT)
        return scores

    def weights(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what means and near values are weighted with, and Laplace's divisor."""
        if self.layout.weighting is Weighting.SOFTMAX:
            return torch.softmax(scores, dim=-1), None
        weights = laplace(scores)
        weights[..., : self.num_codes] *= self.counts[:, None]
        divisor = 1 + weights.sum(-1, keepdim=True)
        return weights / divisor, divisor

    def slopes(self, scores: torch.Tensor, weights: torch.Tensor, divisor: Any) -> torch.Tensor:
        """Return how weights would grow with their logits if the divisor stayed."""
        if divisor is None:
            return weights
        slopes = _laplace_slope(scores)
        slopes[..., : self.num_codes] *= self.counts[:, None]
        divided: torch.Tensor = slopes / divisor
        return divided

    def _heads(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.arange(self.rows.start, self.rows.stop, device=tensor.device) % len(tensor)


def _groups(tensors: _Tensors, layout: Layout) -> Iterator[_Group]:
    """Yield groups that cover all blocks; those of a row one after the other."""
    num_rows, num_blocks, height = tensors.queries.shape[:3]
    num_keys = tensors.codebook.shape[1] + tensors.bias.shape[2]
    limit = _CUDA_SCORES if tensors.queries.is_cuda else _SCORES
    step = max(1, limit // (height * num_keys))
    row_step = max(1, step // num_blocks)
    for first in range(0, num_rows, row_step):
        rows = slice(first, min(first + row_step, num_rows))
        codes, is_causal = layout.codes[rows], layout.is_causal
        counts = far_counts(
            layout.is_key[rows], codes, layout.past_counts[rows], num_blocks, is_causal=is_causal
        )
        sums = FarSums(tensors.values[rows], codes, layout.past_sums[rows], is_causal=is_causal)
        for start in range(0, num_blocks, step):
            blocks = slice(start, min(start + step, num_blocks))
            chosen = counts[:, blocks]
            yield _Group(tensors, layout, rows, blocks, chosen.flatten(0, 1), _means(sums, chosen))


def _means(sums: FarSums, counts: torch.Tensor) -> torch.Tensor:
    """Return (R·A, S, E), what A blocks see, and move the sums on; counts are (R, A, S)."""
    means = sums.sums.new_empty(*counts.shape, sums.sums.shape[2])
    for block in range(counts.shape[1] if counts.shape[2] else 0):
        torch.div(sums.sums, counts[:, block, :, None].clamp(min=1), out=means[:, block])
        sums.advance()
    return means.flatten(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _FarGradients:
    """What takes gradients beyond the near blocks: of values, and of keys if they get any."""

    values: FarGradient
    keys: FarKeyGradient | None

    def finish(self) -> None:
        self.values.finish()
        if self.keys is not None:
            self.keys.finish()


def _far_gradients(grads: _Tensors, group: _Group) -> _FarGradients | None:
    """Return them for the rows of a group, before its first block; None if it sees no codes."""
    if not group.num_codes:
        return None
    rows, layout, num_blocks = group.rows, group.layout, group.tensors.queries.shape[1]
    shape, is_causal = (layout.codes[rows], group.num_codes, num_blocks), layout.is_causal
    values = FarGradient(grads.values[rows], *shape, is_causal=is_causal)
    if not layout.moment_width:
        return _FarGradients(values, None)
    keys = FarKeyGradient(
        grads.near_keys[rows],
        group.tensors.values[rows],
        *shape,
        is_key=layout.is_key[rows],
        width=layout.moment_width,
        is_causal=is_causal,
    )
    return _FarGradients(values, keys)


def _add_gradients(
    grads: _Tensors,
    group: _Group,
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
        means = torch.bmm(far_weights.mT, grad)
        for mean, one in zip(group.by_block(means), group.by_block(part), strict=True):
            far.values.add(mean, one)
        if far.keys is not None:
            each = group.parted(slopes)[0] * part.mT
            blocks = (group.by_block(one) for one in (each, queries, grad, shares))
            for of_block in zip(*blocks, strict=True):
                far.keys.add(*of_block)
    group.put(grads.queries, asked)
