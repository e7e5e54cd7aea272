"""The blocks of factored attention, and what some of them need to be worked on at once.

Query block n sees key blocks n and n + 1 token by token, and n + 2 as well if attention looks
ahead, and a mean value for each code of all beyond: S + 2W or S + 3W keys, each with a logit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from memstore.models.longvq_config import Weighting
from memstore.models.longvq_sums import FarSums, far_counts

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


def laplace_slope(logits: torch.Tensor) -> torch.Tensor:
    """Return the derivative of `laplace`: a normal density."""
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


class BlockTensors(NamedTuple):
    """What is differentiated by."""

    queries: torch.Tensor
    near_keys: torch.Tensor
    values: torch.Tensor
    codebook: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Some blocks of some rows, that are worked on at once: g blocks together.

    Attributes:
        tensors: of the call.
        layout: of the call.
        rows: of R.
        blocks: of A.
        counts: (g, S), far keys of each code.
        means: (g, S, E), of their values.
    """

    tensors: BlockTensors
    layout: Layout
    rows: slice
    blocks: slice
    counts: torch.Tensor
    means: torch.Tensor

    @property
    def num_codes(self) -> int:
        """S, or none."""
        return self.counts.shape[1]

    @property
    def is_last(self) -> bool:
        """There are no more blocks in these rows."""
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
        into.index_add_(0, self._heads(into), self.by_row(part).sum(1))

    def by_row(self, part: torch.Tensor) -> torch.Tensor:
        """Return (rows, blocks, …) of (g, …)."""
        return part.view(self.rows.stop - self.rows.start, -1, *part.shape[1:])

    def add_to_near(self, into: torch.Tensor, part: torch.Tensor) -> None:
        """Add (g, num_near·W, …) into (R, A', W, …)."""
        width, start, stop = into.shape[2], self.blocks.start, self.blocks.stop
        windows = self.by_row(part)
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

    def slopes(
        self, scores: torch.Tensor, weights: torch.Tensor, divisor: torch.Tensor | None
    ) -> torch.Tensor:
        """Return how weights would grow with their logits if the divisor stayed."""
        if divisor is None:
            return weights
        slopes = laplace_slope(scores)
        slopes[..., : self.num_codes] *= self.counts[:, None]
        divided: torch.Tensor = slopes / divisor
        return divided

    def _heads(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.arange(self.rows.start, self.rows.stop, device=tensor.device) % len(tensor)


def groups(tensors: BlockTensors, layout: Layout) -> Iterator[Group]:
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
            yield Group(tensors, layout, rows, blocks, chosen.flatten(0, 1), _means(sums, chosen))


def _means(sums: FarSums, counts: torch.Tensor) -> torch.Tensor:
    """Return (R·A, S, E), what A blocks see, and move the sums on; counts are (R, A, S)."""
    seen = sums.take(counts.shape[1])
    return seen.div_(counts.clamp(min=1)[..., None]).flatten(0, 1)
