"""What a MELODI model, or a baseline of the same blocks, is built from, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from memstore.models.configs import from_values, refused, to_values


class Architecture(StrEnum):
    """How a model keeps what it has read; all else is the same."""

    MELODI = "melodi"
    TRANSFORMER_XL = "transformer-xl"
    MEMORIZING = "memorizing"
    BLOCK_RECURRENT = "block-recurrent"


@dataclass(frozen=True, slots=True)
class MelodiConfig:
    """A decoder that reads a text window by window. The defaults are the paper's larger table row.

    Attributes:
        vocab_size: V, token ids.
        architecture: what is kept of earlier windows.
        dim: D, width of the model.
        num_layers: N.
        num_heads: H; a head is D / H wide.
        ffn_dim: width inside a feed-forward layer.
        window: W, tokens read at once.
        num_short_tokens: S, short-term memory tokens of a layer; 0: none (MELODI alone).
        num_summary_tokens: U, learned tokens that read each window after its own (MELODI alone).
        num_long_tokens: L, tokens that each window adds to the queue; 0: no queue (MELODI alone).
        queue_windows: Q, windows that the queue holds (MELODI, memorizing).
        long_layer: index of the layer with the queue or the recurrent states; None: the middle.
        has_branching: the summary is mixed apart for the next layer and for the next window; else
            both take it as it is (MELODI alone).
        masks_empty_slots: slots of the queue that no window has filled are not attended to; else
            they are zeros that draw attention to nothing, as in the paper (MELODI, memorizing).
        dropout: of the residual stream and of attention, in training.

    Raises:
        ConfigError: if a value is out of range or two do not fit together.
    """

    vocab_size: int
    architecture: Architecture = Architecture.MELODI
    dim: int = 1024
    num_layers: int = 12
    num_heads: int = 8
    ffn_dim: int = 4096
    window: int = 512
    num_short_tokens: int = 128
    num_summary_tokens: int = 128
    num_long_tokens: int = 64
    queue_windows: int = 128
    long_layer: int | None = None
    has_branching: bool = True
    masks_empty_slots: bool = False
    dropout: float = 0.05

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise refused(name, getattr(self, name), "at least 1")
        for name in ("num_short_tokens", "num_summary_tokens", "num_long_tokens"):
            if getattr(self, name) < 0:
                raise refused(name, getattr(self, name), "0 or more")
        if self.dim % self.num_heads:
            raise refused("num_heads", self.num_heads, f"a divisor of dim = {self.dim}")
        if not 0 <= self.long_index < self.num_layers:
            raise refused("long_layer", self.long_layer, f"0 to {self.num_layers - 1}")
        if not 0 <= self.dropout < 1:
            raise refused("dropout", self.dropout, "0 up to, not with, 1")
        if not self.has_branching and self.num_short_tokens not in (0, self.num_summary_tokens):
            raise refused(
                "num_summary_tokens",
                self.num_summary_tokens,
                f"num_short_tokens = {self.num_short_tokens}: without branching the summary is the "
                "short-term memory",
            )

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.num_heads

    @property
    def long_index(self) -> int:
        """Index of the layer with the queue or the recurrent states."""
        return self.num_layers // 2 if self.long_layer is None else self.long_layer

    @property
    def queue_length(self) -> int:
        """L·Q, tokens in MELODI's queue."""
        return self.num_long_tokens * self.queue_windows

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return to_values(self)


def parse_config(values: Mapping[str, Any], *, where: str) -> MelodiConfig:
    """Read back what `MelodiConfig.to_dict` wrote.

    Raises:
        CorruptionError: if a field is missing, unknown, of the wrong type or out of range.
    """
    return from_values(MelodiConfig, values, model="MELODI", where=where)


_AT_LEAST_ONE = (
    "vocab_size",
    "dim",
    "num_layers",
    "num_heads",
    "ffn_dim",
    "window",
    "queue_windows",
)
