"""Attention over quantized keys in two forms that agree: factored, O(L·S), and dense, O(L²).

    weights = φ(q·k̂ + b(i - j))        output = Σ weights·v / Σ weights

k̂ is the centroid of a key, and b a learned bias on tokens nearer than W, zero beyond. φ is exp
(softmax) or MEGA's Laplace, with which the divisor is 1 + Σ weights: where nothing is alike,
nothing is given.

Differs: MEGA divides Laplace's logits by the number of keys and not its weights by their sum. Of
queries and keys of fixed length that leaves logits that hardly differ, and an output that grows
with the text.

Source: LongVQ (arXiv 2404.11163), Transformer-VQ (arXiv 2309.16354), MEGA (arXiv 2209.10655).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from memstore.models.longvq_config import Weighting
from memstore.models.longvq_factored import FactoredAttention
from memstore.models.longvq_groups import Layout, laplace, masked_logit


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """What decides weights besides queries and keys.

    Attributes:
        window: W, tokens of a block; the bias is on distances below it.
        weighting: from logits to weights.
        is_causal: a query sees what is before it, and itself; else all.
        is_local: it sees nothing at distance W or more.
    """

    window: int
    weighting: Weighting
    is_causal: bool
    is_local: bool = False

    @property
    def num_biases(self) -> int:
        """Distances that have a bias: 0 to W - 1, or -(W - 1) to W - 1."""
        return self.window if self.is_causal else 2 * self.window - 1


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """What causal attention keeps of a text: W tokens, and sums of all that came before them.

    Attributes:
        codes: (B, H, W) int64, of the last tokens.
        keys: (B, H, W, K), of the last tokens.
        values: (B, H, W, E), zeros where there is no token.
        mask: (B, W) bool, there is a token.
        sums: (B, H, S, E), of older values by code.
        counts: (B, H, S), how many those are.
    """

    codes: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor
    sums: torch.Tensor
    counts: torch.Tensor

    def advance(
        self,
        codes: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> Past:
        """Return the past after L more tokens; arguments as of `factored_attention`."""
        window = self.mask.shape[1]
        values = hide(values, mask)
        if mask is None:
            mask = self.mask.new_ones(len(self.mask), codes.shape[2])
        all_codes = torch.cat([self.codes, codes], dim=2)
        all_keys = torch.cat([self.keys, keys], dim=2)
        all_values = torch.cat([self.values, values], dim=2)
        all_mask = torch.cat([self.mask, mask], dim=1)
        sums, counts = self.sums, self.counts
        if self.sums.shape[2]:
            older = slice(0, -window)
            index = all_codes[:, :, older]
            ones = all_mask[:, None, older].expand(index.shape).to(counts.dtype)
            tokens = all_values[:, :, older]
            sums = sums.scatter_add(2, index[..., None].expand(tokens.shape), tokens)
            counts = counts.scatter_add(2, index, ones)
        last = slice(-window, None)
        return Past(
            all_codes[:, :, last],
            all_keys[:, :, last],
            all_values[:, :, last],
            all_mask[:, last],
            sums,
            counts,
        )


def factored_attention(
    queries: torch.Tensor,
    near_keys: torch.Tensor,
    values: torch.Tensor,
    codes: torch.Tensor,
    codebook: torch.Tensor,
    bias: torch.Tensor,
    mask: torch.Tensor | None,
    rule: AttentionRule,
    past: Past | None = None,
    *,
    moment_width: int = 0,
) -> torch.Tensor:
    """Attend to near keys one by one and to all others through their codes.

    Block n of W queries sees blocks n - 1 and n (and n + 1) in `near_keys`; the rest of the text in
    `codebook`. With near_keys = codebook[codes] that is `dense_attention` of these, to rounding.

    Args:
        queries: (B, H, L, K) floating point, scaled.
        near_keys: (B, H, L, K).
        values: (B, H, L, E).
        codes: (B, H, L) int64, 0 to S - 1.
        codebook: (H, S, K); of a local rule S = 0.
        bias: (H, rule.num_biases), the least distance i - j first.
        mask: (B, L) bool, there is a token; others are not seen and give zeros. None: everywhere.
        rule: how.
        past: of what came before, for causal attention. It gets no gradient.
        moment_width: near keys stand for the far keys too, and get their gradient: exactly for
            values up to this width, on average for wider ones; 0: they do not.

    Returns:
        (B, H, L, E). Gradients of far queries reach the centroids, and near keys as said.

    Cost: 2·L·(S + 2W)·(K + E) floating-point operations, 3W looking ahead; twice and a half as many
    backward, and 4·L·S·K·moment_width. Memory is linear in L.
    """
    batch_size, num_heads, length, _ = queries.shape
    if not length:
        return values.new_zeros(values.shape)
    given_dtype = values.dtype
    dtype = torch.promote_types(given_dtype, torch.float32)  # sums over a text need the digits
    queries, near_keys, values, codebook, bias = (
        each.to(dtype) for each in (queries, near_keys, values, codebook, bias)
    )
    window, num_codes = rule.window, codebook.shape[1]
    num_blocks = -(-length // window)
    height = min(window, length)
    behind = num_blocks * window - length + (0 if rule.is_causal else window)
    values = hide(values, mask)
    is_key = values.new_ones(1, 1, 1, dtype=torch.bool) if mask is None else mask[:, None]
    is_key = is_key.expand(batch_size, num_heads, length)
    if past is None:
        sizes = batch_size, num_heads, num_codes, values.shape[3]
        sums, counts = values.new_zeros(sizes), values.new_zeros(sizes[:3])
    else:
        sums, counts = past.sums.to(dtype), past.counts.to(dtype)
        codes = torch.cat([past.codes, codes], dim=2)
        near_keys = torch.cat([past.keys.to(dtype), near_keys], dim=2)
        values = torch.cat([past.values.to(dtype), values], dim=2)
        is_key = torch.cat([past.mask[:, None].expand(-1, num_heads, -1), is_key], dim=2)
    ahead = window if past is None else 0

    def blocks(tensor: torch.Tensor, width: int, left: int, right: int) -> torch.Tensor:
        """Return (R, blocks, width, …) of (B, H, L, …), filled up with zeros."""
        padded = F.pad(tensor, [0, 0] * (tensor.ndim - 3) + [left, right])
        shape = len(padded) * num_heads, -1, width, *tensor.shape[3:]
        return padded.reshape(shape).contiguous()

    output: torch.Tensor = FactoredAttention.apply(  # type: ignore[no-untyped-call]
        blocks(queries, height, 0, num_blocks * height - length),
        blocks(near_keys, window, ahead, behind),
        blocks(values, window, ahead, behind),
        codebook,
        _tile(bias, rule, height),
        Layout(
            codes=blocks(codes, window, ahead, behind),
            is_key=blocks(is_key, window, ahead, behind),
            past_sums=sums.flatten(0, 1),
            past_counts=counts.flatten(0, 1),
            weighting=rule.weighting,
            is_causal=rule.is_causal,
            moment_width=moment_width,
        ),
    )
    output = output.flatten(1, 2)[:, :length].view(batch_size, num_heads, length, -1)
    return hide(output.to(given_dtype), mask)


def dense_attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor,
    mask: torch.Tensor | None,
    rule: AttentionRule,
    far_keys: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend to all keys one by one: what `factored_attention` equals, and its exact gradient.

    Args:
        queries: (B, H, L, K) floating point, scaled.
        keys: (B, H, L, K).
        values: (B, H, L, E).
        bias: (H, rule.num_biases), the least distance i - j first.
        mask: (B, L) bool, there is a token; None: everywhere.
        rule: how.
        far_keys: (B, H, L, K), what stands for keys beyond the near blocks; None: `keys`.

    Returns:
        (B, H, L, E).

    Cost: O(L²) time and memory.
    """
    length, window = queries.shape[2], rule.window
    place = torch.arange(length, device=queries.device)
    distance = place[:, None] - place
    logits = queries @ keys.mT
    if far_keys is not None:
        blocks_apart = place[:, None] // window - place // window
        is_near = (blocks_apart <= 1) & (blocks_apart >= (0 if rule.is_causal else -1))
        logits = torch.where(is_near, logits, queries @ far_keys.mT)
    logits = logits + _bias_of(bias, distance, rule)
    is_seen = _reaches(distance, rule)
    if mask is not None:
        is_seen = is_seen & mask[:, None, None, :]
    logits = torch.where(is_seen, logits, masked_logit(logits.dtype))
    if rule.weighting is Weighting.SOFTMAX:
        weights = torch.softmax(logits, dim=-1)
    else:
        weights = laplace(logits)
        weights = weights / (1 + weights.sum(-1, keepdim=True))
    return hide(weights @ hide(values, mask), mask)


def hide(tensor: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return (B, H, L, n) with zeros where (B, L) says that there is no token."""
    return tensor if mask is None else tensor.masked_fill(~mask[:, None, :, None], 0)


def _tile(bias: torch.Tensor, rule: AttentionRule, height: int) -> torch.Tensor:
    """Return (H, height, 2W or 3W): the bias between a block of queries and its near keys."""
    place = torch.arange(rule.window * (2 if rule.is_causal else 3), device=bias.device)
    query = torch.arange(height, device=bias.device)[:, None] + rule.window
    tile = _bias_of(bias, query - place, rule)
    return torch.where(_reaches(query - place, rule), tile, masked_logit(tile.dtype))


def _reaches(distance: torch.Tensor, rule: AttentionRule) -> torch.Tensor:
    """Return whether a query sees a key so far before it."""
    is_seen = torch.ones_like(distance, dtype=torch.bool)
    if rule.is_causal:
        is_seen &= distance >= 0
    if rule.is_local:
        is_seen &= distance.abs() < rule.window
    return is_seen


def _bias_of(bias: torch.Tensor, distance: torch.Tensor, rule: AttentionRule) -> torch.Tensor:
    """Return (H, …) for (…) distances: zero from W on."""
    lowest = 0 if rule.is_causal else 1 - rule.window
    index = (distance - lowest).clamp(0, rule.num_biases - 1)
    is_biased = (distance >= lowest) & (distance < rule.window)
    return torch.where(is_biased, bias[:, index], 0)
