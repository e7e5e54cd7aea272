"""What a LongVQ model is built from, as JSON values.

The paper names few of its constants. Those that it does not are choices of ours; ADR 0009 says
what each rests on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from memstore.models.configs import from_values, refused, to_values


class StateSpace(StrEnum):
    """The layer that mixes a token with what is around it before attention."""

    EMA = "ema"
    S4D = "s4d"
    NONE = "none"


class Attention(StrEnum):
    """What a token attends to: codes and a band; the band alone; every token; nothing."""

    VQ = "vq"
    BAND = "band"
    FULL = "full"
    NONE = "none"


class Weighting(StrEnum):
    """From logits to weights."""

    SOFTMAX = "softmax"
    LAPLACE = "laplace"


class KeyGradient(StrEnum):
    """How keys learn from queries that reach them through codes alone.

    LOCAL: not at all; they learn in the band. MEANS: each as much as the mean of its code. LEARNED:
    not at all, but the centroids do, by backpropagation. MOMENTS: exactly for narrow values, on
    average for wider ones, in O(L). DENSE: exactly, in O(L²). AUTO: DENSE for short texts, for
    which it costs less, else MOMENTS.
    """

    AUTO = "auto"
    LOCAL = "local"
    MEANS = "means"
    LEARNED = "learned"
    MOMENTS = "moments"
    DENSE = "dense"


@dataclass(frozen=True, slots=True)
class LongVQConfig:
    """A stack of gated blocks, each a state-space layer, attention over codes, and feed-forward.

    Attributes:
        vocab_size: V, token ids.
        is_causal: a token sees what is before it; else all of the text.
        dim: D, width of the model.
        num_layers: N.
        num_heads: H; the paper has one.
        key_dim: width of a head's queries and keys.
        value_dim: width of the values, all heads together.
        ffn_dim: width inside a feed-forward layer.
        state_space: which one mixes neighbours.
        state_size: real numbers that the state-space layer keeps for a channel and direction.
        attention: what a token attends to.
        weighting: from logits to weights.
        num_codes: S, centroids a head.
        window: W: the bias is on tokens nearer than W, and blocks are of W tokens.
        has_bias: there is a learned bias by distance; else attention knows no order.
        key_gradient: how keys learn from far queries.
        moment_width: where keys learn by moments, values of a head that are wider are projected to
            this; exact if none is.
        learns_codebook: centroids follow the keys; else they stay as drawn at random.
        decay: of the centroids' moving averages, a batch.
        commitment: weight of the mean squared distance of keys from their centroids.
        dropout: of the residual stream, in training.

    Raises:
        ConfigError: if a value is out of range or two do not fit together.
    """

    vocab_size: int
    is_causal: bool = False
    dim: int = 256
    num_layers: int = 4
    num_heads: int = 1
    key_dim: int = 64
    value_dim: int = 256
    ffn_dim: int = 512
    state_space: StateSpace = StateSpace.EMA
    state_size: int = 16
    attention: Attention = Attention.VQ
    weighting: Weighting = Weighting.SOFTMAX
    num_codes: int = 256
    window: int = 128
    has_bias: bool = True
    key_gradient: KeyGradient = KeyGradient.AUTO
    moment_width: int = 16
    learns_codebook: bool = True
    decay: float = 0.99
    commitment: float = 1e-4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise refused(name, getattr(self, name), "at least 1")
        if self.value_dim % self.num_heads:
            wanted = f"a divisor of value_dim = {self.value_dim}"
            raise refused("num_heads", self.num_heads, wanted)
        if self.num_codes < 2:
            raise refused("num_codes", self.num_codes, "at least 2")
        if self.state_size % 2:
            raise refused("state_size", self.state_size, "an even number: S4D has pairs")
        for name in ("decay", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise refused(name, getattr(self, name), "0 up to, not with, 1")
        if self.commitment < 0:
            raise refused("commitment", self.commitment, "0 or more")

    @property
    def head_dim(self) -> int:
        """Width of a head's values."""
        return self.value_dim // self.num_heads

    @property
    def has_codes(self) -> bool:
        """Keys are quantized."""
        return self.attention is Attention.VQ

    @property
    def num_far_codes(self) -> int:
        """Centroids through which a token sees what is beyond the band: S or none."""
        return self.num_codes if self.has_codes else 0

    def key_gradient_of(self, length: int, *, has_past: bool = False) -> KeyGradient:
        """Return how keys learn in texts of so many tokens: what AUTO stands for.

        Short texts have no more tokens than the factored form has keys: centroids and near blocks.
        The dense form has no past.
        """
        if self.key_gradient is not KeyGradient.AUTO:
            return self.key_gradient
        num_keys = self.num_codes + (2 if self.is_causal else 3) * self.window
        is_short = length <= num_keys and not has_past
        return KeyGradient.DENSE if is_short else KeyGradient.MOMENTS

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return to_values(self)


def parse_config(values: Mapping[str, Any], *, where: str) -> LongVQConfig:
    """Read back what `LongVQConfig.to_dict` wrote.

    Raises:
        CorruptionError: if a field is missing, unknown, of the wrong type or out of range.
    """
    return from_values(LongVQConfig, values, model="LongVQ", where=where)


_AT_LEAST_ONE = (
    "vocab_size",
    "dim",
    "num_layers",
    "num_heads",
    "key_dim",
    "value_dim",
    "ffn_dim",
    "state_size",
    "window",
    "moment_width",
)
