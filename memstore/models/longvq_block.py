"""One block of LongVQ: state space, gates, attention over codes, and feed-forward.

    X' = norm(X)            Z = silu(SSM(X'))           V = silu(X'·W_v)
    Q, K = Z·W_q, Z·W_k of length K^¼ each               G_a = silu(Z·W_a)     G_o = σ(Z·W_o)
    H = silu(Z·W_h + (attention(Q, K̂, V) ⊙ G_a)·U)       Y = X + G_o ⊙ (H - X)
    output = Y + FFN(norm(Y))

Source: LongVQ (arXiv 2404.11163) for Z, Q, K, V and the gates; how H is made and mixed is MEGA's
(arXiv 2209.10655), the length of queries and keys Transformer-VQ's (arXiv 2309.16354).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from memstore.errors import ConfigError
from memstore.models.longvq_attention import (
    AttentionRule,
    Past,
    dense_attention,
    factored_attention,
)
from memstore.models.longvq_config import Attention, KeyGradient, LongVQConfig, StateSpace
from memstore.models.longvq_quantizer import CodeUse, KeyQuantizer
from memstore.models.longvq_ssm import StateSpaceLayer

_BIAS_DEVIATION = 0.02  # MEGA's


@dataclass(frozen=True, slots=True, eq=False)
class LayerState:
    """What a causal block keeps of a text.

    Attributes:
        space: (B, D, modes, parts), of the state space; None: the block has none.
        past: of attention; None: the block has none.
    """

    space: torch.Tensor | None
    past: Past | None


@dataclass(frozen=True, slots=True, eq=False)
class BlockOutput:
    """What a block gives.

    Attributes:
        hidden: (B, L, D).
        loss: (), what the quantizer adds to the loss.
        use: of the codes; None: there are none.
        state: after the tokens; None: none was given.
    """

    hidden: torch.Tensor
    loss: torch.Tensor
    use: CodeUse | None
    state: LayerState | None


class LongVQBlock(nn.Module):
    """See the module.

    Args:
        config: the model's.
    """

    def __init__(self, config: LongVQConfig) -> None:
        super().__init__()
        self.config = config
        dim, value_dim = config.dim, config.value_dim
        self.rule = AttentionRule(
            config.window,
            config.weighting,
            config.is_causal,
            is_local=config.attention is Attention.BAND,
        )
        self.norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.space: StateSpaceLayer | None = None
        if config.state_space is not StateSpace.NONE:
            self.space = StateSpaceLayer(
                dim, config.state_size, config.state_space, is_causal=config.is_causal
            )
        self.has_attention = config.attention is not Attention.NONE
        keys_dim = config.num_heads * config.key_dim
        widths = (keys_dim, keys_dim, value_dim) if self.has_attention else ()
        self.widths = (dim, dim, *widths)
        self.from_mixed = nn.Linear(dim, sum(self.widths))
        if self.has_attention:
            self.to_values = nn.Linear(dim, value_dim)
            self.from_values = nn.Linear(value_dim, dim, bias=False)
        self.bias: nn.Parameter | None = None
        if self.has_attention and config.has_bias:
            drawn = torch.randn(config.num_heads, self.rule.num_biases)
            self.bias = nn.Parameter(drawn * _BIAS_DEVIATION)
        self.quantizer: KeyQuantizer | None = None
        if config.has_codes:
            self.quantizer = KeyQuantizer(
                config.num_heads,
                config.num_codes,
                config.key_dim,
                decay=config.decay,
                commitment=config.commitment,
                gradient=config.key_gradient,
                learns=config.learns_codebook,
            )
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.ffn_dim, dim),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        centroids: torch.Tensor | None,
        state: LayerState | None = None,
    ) -> BlockOutput:
        """Read texts, or what follows of them.

        Args:
            hidden: (B, L, D).
            mask: (B, L) bool, there is a token; None: everywhere.
            centroids: of the quantizer; None: there is none.
            state: of what came before.
        """
        inputs = self.norm(hidden)
        if mask is not None:
            inputs = inputs.masked_fill(~mask[..., None], 0)
        mixed, space = inputs, None
        if self.space is not None:
            with _all_digits(inputs):
                mixed, space = self.space(inputs, None if state is None else state.space)
        parts = self.from_mixed(F.silu(mixed)).split(self.widths, dim=-1)
        candidate, gate = parts[:2]
        loss, use, past = hidden.new_zeros(()), None, None
        if self.has_attention:
            given = None if state is None else state.past
            seen, loss, use, past = self._attend(inputs, parts[2:], mask, centroids, given)
            candidate = candidate + self.from_values(self.dropout(seen))
        mixed = self.dropout(F.silu(candidate))
        share = torch.sigmoid(gate).to(hidden.dtype)  # under autocast they differ
        hidden = torch.lerp(hidden, mixed.to(hidden.dtype), share)
        hidden = hidden + self.dropout(self.ffn(self.ffn_norm(hidden)))
        return BlockOutput(hidden, loss, use, None if state is None else LayerState(space, past))

    def _attend(
        self,
        inputs: torch.Tensor,
        parts: tuple[torch.Tensor, ...],
        mask: torch.Tensor | None,
        centroids: torch.Tensor | None,
        past: Past | None,
    ) -> tuple[torch.Tensor, torch.Tensor, CodeUse | None, Past | None]:
        """Return what was seen (B, L, value_dim), gated; loss, use of the codes, past after it."""
        config, rule = self.config, self.rule
        queries, keys = (_of_length(self._heads(each)) for each in parts[:2])
        values = self._heads(F.silu(self.to_values(inputs)))
        loss, use = inputs.new_zeros(()), None
        codes = torch.zeros(keys.shape[:3], dtype=torch.int64, device=keys.device)
        book = keys.new_zeros(config.num_heads, 0, config.key_dim)
        if self.quantizer is not None and centroids is not None:
            with _all_digits(keys):
                quantized = self.quantizer(keys, mask, centroids)
            keys, codes, book = quantized.keys, quantized.codes, quantized.centroids
            loss, use = quantized.loss, quantized.use
        bias = keys.new_zeros(config.num_heads, rule.num_biases) if self.bias is None else self.bias
        gradient = config.key_gradient_of(keys.shape[2], has_past=past is not None)
        learns_dense = gradient is KeyGradient.DENSE and self.training and config.has_codes
        if config.attention is Attention.FULL or learns_dense:
            if past is not None:
                raise ConfigError(
                    "state: full attention, and training with key_gradient dense, read whole texts "
                    "alone; give no state"
                )
            seen = dense_attention(queries, keys, values, bias, mask, rule)
        else:
            seen = factored_attention(
                queries,
                keys,
                values,
                codes,
                book,
                bias,
                mask,
                rule,
                past,
                moment_width=config.moment_width if gradient is KeyGradient.MOMENTS else 0,
            )
        if past is not None:
            past = past.advance(codes, keys, values, mask)
        gated = seen.transpose(1, 2).flatten(2) * F.silu(parts[2])
        return gated, loss, use, past

    def _heads(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return (B, H, L, n) of (B, L, H·n)."""
        return tensor.view(*tensor.shape[:2], self.config.num_heads, -1).transpose(1, 2)


def _all_digits(tensor: torch.Tensor) -> torch.autocast:
    """Keep autocast out: a pole near 1 and the nearest of many centroids need the digits."""
    return torch.autocast(tensor.device.type, enabled=False)


def _of_length(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors of mean 0 and length K^¼: a logit is then at most √K."""
    width = vectors.shape[-1]
    return F.layer_norm(vectors, (width,)) / math.sqrt(math.sqrt(width))
