"""The parts that MELODI and its baselines are made of: an attention block and a token mixer.

Source: MELODI (arXiv 2410.03156) and its released code (google-research/meliad); the position bias
of T5 (arXiv 1910.10683).
Differs: attention dropout is drawn for each text, not once for a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

_EPSILON = 1e-6
_NUM_BUCKETS = 32
_MAX_DISTANCE = 128
_LEARNED_STD = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class KeyValues:
    """What queries attend to.

    Attributes:
        keys, values: (B, H, T, D / H).
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __len__(self) -> int:
        return self.keys.shape[2]

    def append(self, other: KeyValues) -> KeyValues:
        """Return both, the other's after these."""
        return KeyValues(
            torch.cat([self.keys, other.keys], dim=2), torch.cat([self.values, other.values], dim=2)
        )

    def push(self, other: KeyValues) -> KeyValues:
        """Append to a queue: as many of the oldest leave it."""
        return KeyValues(push(self.keys, other.keys, dim=2), push(self.values, other.values, dim=2))


@dataclass(frozen=True, slots=True, eq=False)
class LayerMemory:
    """What a block attends to besides the tokens that it is given.

    Attributes:
        near: what comes before the tokens, with position bias.
        far: the queue or the recurrent states, all of it visible, without position bias.
        far_mask: (B, 1, 1, T) bool, False for what is not attended to; None: all is.
    """

    near: KeyValues
    far: KeyValues | None = None
    far_mask: torch.Tensor | None = None


def push(queue: torch.Tensor, new: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Append to a queue; as many of its oldest leave it."""
    return torch.cat([queue, new], dim=dim).narrow(dim, new.shape[dim], queue.shape[dim])


def filled_slots(
    position: torch.Tensor, *, slots_per_window: int, window: int, num_slots: int
) -> torch.Tensor:
    """Return (B, 1, 1, num_slots) bool: the slots of a queue that a window has filled.

    For a text that has filled none, all of them: they are zeros, so nothing is read either way,
    and a softmax over nothing is avoided.
    """
    num_filled = position.div(window, rounding_mode="floor") * slots_per_window  # (B,)
    index = torch.arange(num_slots, device=position.device)
    mask = (index >= num_slots - num_filled[:, None]) | (num_filled[:, None] == 0)
    return mask[:, None, None, :]


def position_buckets(distances: torch.Tensor) -> torch.Tensor:
    """Return the T5 bucket (0 to 31) of distances to the left, 0 or more.

    Half of the buckets are one distance each; the others widen up to 128, and the last has all
    that is further.
    """
    num_exact = _NUM_BUCKETS // 2
    scaled = torch.log(distances.clamp(min=1) / num_exact) / math.log(_MAX_DISTANCE / num_exact)
    wide = num_exact + (scaled * (_NUM_BUCKETS - num_exact)).long()
    return torch.where(distances < num_exact, distances, wide.clamp(max=_NUM_BUCKETS - 1))


def make_norm(dim: int) -> nn.RMSNorm:
    """Return a norm with a scale, no mean and no bias."""
    return nn.RMSNorm(dim, eps=_EPSILON)


def init_fan_in(weight: torch.Tensor) -> None:
    """Draw a weight (out, in) from a normal cut at two deviations; variance 1 / in."""
    # Cutting takes this much off the deviation; JAX's `variance_scaling` gives it back.
    deviation = weight.shape[1] ** -0.5 / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)


def make_linear(num_in: int, num_out: int) -> nn.Linear:
    """Return a projection without bias."""
    linear = nn.Linear(num_in, num_out, bias=False)
    init_fan_in(linear.weight)
    return linear


def init_learned(tensor: torch.Tensor) -> torch.Tensor:
    """Draw a gate, or summary tokens, from a normal of deviation 0.25 cut at two of them."""
    return nn.init.trunc_normal_(tensor, std=_LEARNED_STD, a=-2 * _LEARNED_STD, b=2 * _LEARNED_STD)


def join_heads(read: torch.Tensor) -> torch.Tensor:
    """Lay the heads (B, H, T, D / H) side by side: (B, T, D)."""
    return read.transpose(1, 2).flatten(2)


class Heads(nn.Module):
    """The norm and projections before attention, and attention itself, without a mask of its own.

    Keys and queries have length 1; a learned scale per head stands in for 1 / sqrt(D / H).

    Args:
        dim: D.
        num_heads: H.
        dropout: of what is projected, and of attention.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = make_norm(dim)
        self.query = make_linear(dim, dim)
        self.key_value = make_linear(dim, 2 * dim)
        self.scale = nn.Parameter(torch.ones(num_heads))
        self.dropout = nn.Dropout(dropout)

    def project(self, hidden: torch.Tensor) -> tuple[torch.Tensor, KeyValues]:
        """Return queries (B, H, T, D / H), with the scale in them, and keys and values."""
        normed = self.dropout(self.norm(hidden))
        queries = _unit_length(self._split(self.query(normed)))
        scale = self.scale.abs().to(queries.dtype)
        return queries * scale[:, None, None], self._to_key_values(normed)

    def remember(self, memory: torch.Tensor) -> KeyValues:
        """Return keys and values of a memory (B, T, D), by the projections of the tokens."""
        return self._to_key_values(self.dropout(self.norm(memory)))

    def read(
        self, queries: torch.Tensor, memory: KeyValues, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what queries read of a memory, (B, H, T, D / H).

        Args:
            queries: (B, H, T, D / H), from `project`.
            memory: what they attend to.
            mask: bool, or what is added to the logits.
        """
        return F.scaled_dot_product_attention(
            queries,
            memory.keys.to(queries.dtype),
            memory.values.to(queries.dtype),
            attn_mask=mask,
            dropout_p=self.dropout.p if self.training else 0.0,
            scale=1.0,
        )

    def _to_key_values(self, normed: torch.Tensor) -> KeyValues:
        keys, values = self.key_value(normed).chunk(2, dim=-1)
        return KeyValues(_unit_length(self._split(keys)), self._split(values))

    def _split(self, projected: torch.Tensor) -> torch.Tensor:
        batch, length, dim = projected.shape
        heads = projected.reshape(batch, length, self.num_heads, dim // self.num_heads)
        return heads.transpose(1, 2)  # (B, H, T, D / H)


class Block(nn.Module):
    """Attention and a feed-forward part, each with its norm before and a residual around it.

    A token attends to what lies strictly before it, not to itself.

    Args:
        dim: D.
        num_heads: H.
        ffn_dim: width inside the feed-forward part.
        dropout: of what is projected, of attention, and of what the feed-forward part gives.
        has_far: the block attends to a far memory too, and a gate mixes both.

    Attributes:
        gate: (H, D / H), sigmoid of it is the share of what is near; there with `has_far` alone.
    """

    gate: nn.Parameter

    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, dropout: float, *, has_far: bool = False
    ) -> None:
        super().__init__()
        self.heads = Heads(dim, num_heads, dropout)
        self.out = make_linear(dim, dim)
        self.position_bias = nn.Parameter(torch.empty(num_heads, _NUM_BUCKETS))
        nn.init.normal_(self.position_bias, std=_NUM_BUCKETS**-0.5)
        if has_far:
            self.gate = nn.Parameter(init_learned(torch.empty(num_heads, dim // num_heads)))
        self.ffn_norm = make_norm(dim)
        self.ffn_in = make_linear(dim, ffn_dim)
        self.ffn_out = make_linear(ffn_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def make_bias(self, num_before: int, length: int) -> torch.Tensor:
        """Return what is added to the logits of `length` tokens after `num_before` others.

        Returns:
            (H, length, num_before + length), -inf where a token may not look.
        """
        # An entry depends on the distance alone: one row of them, slid along, is the matrix.
        device = self.position_bias.device
        distances = torch.arange(num_before + length - 1, -length, -1, device=device)
        bias = self.position_bias[:, position_buckets(distances.clamp(min=0))]
        bias = bias * self.heads.scale.abs()[:, None]
        bias = bias.masked_fill(distances < 1, -math.inf)
        matrix = bias.unfold(1, num_before + length, 1).flip(1)  # (H, length, num_before + length)
        if num_before:
            return matrix
        # The first token sees nothing; `read_near` sets what it reads to zero.
        first = torch.zeros(length, length, dtype=torch.bool, device=device)
        first[0, 0] = True
        return matrix.masked_fill(first, 0)

    def read_near(self, queries: torch.Tensor, near: KeyValues, bias: torch.Tensor) -> torch.Tensor:
        """Return what tokens read of what comes before them, (B, H, T, D / H).

        Args:
            queries: (B, H, T, D / H).
            near: keys and values that end with those of the tokens.
            bias: from `make_bias`.
        """
        read = self.heads.read(queries, near, bias.to(queries.dtype)[None])
        if len(near) == queries.shape[2]:
            read = F.pad(read[:, :, 1:], (0, 0, 1, 0))
        return read

    def mix_far(self, near: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
        """Mix what was read near and far by the gate, per head and channel."""
        share = torch.sigmoid(self.gate)[:, None, :]  # (H, 1, D / H)
        return share * near + (1 - share) * far

    def finish(self, hidden: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Add what was read, then what the feed-forward part makes of it: (B, T, D)."""
        hidden = hidden + self.out(join_heads(read))
        inner = self.ffn_in(self.ffn_norm(hidden)).relu()
        change: torch.Tensor = self.dropout(self.ffn_out(inner))
        return hidden + change

    def extend(
        self, hidden: torch.Tensor, memory: LayerMemory, bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, LayerMemory]:
        """Read tokens that follow on a memory.

        Args:
            hidden: (B, T, D).
            memory: what comes before them.
            bias: `make_bias(len(memory.near), T)`, if it is at hand.

        Returns:
            (B, T, D), and the memory with the tokens at its end.
        """
        if bias is None:
            bias = self.make_bias(len(memory.near), hidden.shape[1])
        queries, own = self.heads.project(hidden)
        near = memory.near.append(own)
        read = self.read_near(queries, near, bias)
        if memory.far is not None:
            read = self.mix_far(read, self.heads.read(queries, memory.far, memory.far_mask))
        return self.finish(hidden, read), replace(memory, near=near)


class TokenMixer(nn.Module):
    """Makes tokens of a window and its summary by one map along the token axis, for all channels.

    Args:
        num_mixed: W + U, tokens in.
        num_out: tokens out.
        dim: D.
        has_residual: normalize what is mixed and add it to the summary, which has `num_out` tokens.
    """

    def __init__(self, num_mixed: int, num_out: int, dim: int, *, has_residual: bool) -> None:
        super().__init__()
        self.has_residual = has_residual
        self.mix = nn.Linear(num_mixed, num_out)
        init_fan_in(self.mix.weight)
        nn.init.zeros_(self.mix.bias)
        if has_residual:
            self.token_norm = make_norm(dim)
            self.summary_norm = make_norm(dim)

    def forward(self, tokens: torch.Tensor, summary: torch.Tensor) -> torch.Tensor:
        """Mix (B, W, D) and (B, U, D) into (B, num_out, D)."""
        if not self.has_residual:
            return self._mix(torch.cat([tokens, summary], dim=1))
        normed = [self.token_norm(tokens), self.summary_norm(summary)]
        return summary + self._mix(torch.cat(normed, dim=1))

    def _mix(self, tokens: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.mix(tokens.transpose(1, 2))  # (B, D, num_out)
        return mixed.transpose(1, 2)


def _unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """Scale vectors to length 1, zeros to zeros; in float32 or better."""
    wide = vectors if vectors.dtype == torch.float64 else vectors.float()
    inverse = torch.rsqrt(wide.square().sum(-1, keepdim=True) + _EPSILON)
    return (wide * inverse).to(vectors.dtype)
