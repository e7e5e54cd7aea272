"""What a causal LongVQ model carries from one part of a text to the next.

Its size does not depend on how much was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from memstore.errors import ConfigError, ShapeError
from memstore.models.longvq_attention import Past
from memstore.models.longvq_block import LayerState
from memstore.models.longvq_config import Attention, LongVQConfig, StateSpace
from memstore.models.states import INTEGER, SECOND, TensorState


@dataclass(frozen=True, slots=True, eq=False)
class LongVQState(TensorState):
    """The state of a batch of texts, anywhere in them.

    Attributes:
        position: (B,) int64, tokens read.
        space: (N, B, D, modes, parts), of the state spaces.
        mask: (B, W) bool, which of the last W places hold tokens.
        codes: (N, B, H, W) int64, of the last keys.
        keys: (N, B, H, W, K), the last keys as they are seen.
        values: (N, B, H, W, E).
        sums: (N, B, H, S, E), all older values, added up by code.
        counts: (N, B, H, S), how many those are.
    """

    position: torch.Tensor = field(metadata=INTEGER)
    space: torch.Tensor = field(metadata=SECOND)
    mask: torch.Tensor = field(metadata=INTEGER)
    codes: torch.Tensor = field(metadata=SECOND | INTEGER)
    keys: torch.Tensor = field(metadata=SECOND)
    values: torch.Tensor = field(metadata=SECOND)
    sums: torch.Tensor = field(metadata=SECOND)
    counts: torch.Tensor = field(metadata=SECOND)

    def layer(self, index: int, config: LongVQConfig) -> LayerState:
        """Return what one layer keeps."""
        has_space = config.state_space is not StateSpace.NONE
        past = None
        if config.attention is not Attention.NONE:
            past = Past(
                codes=self.codes[index],
                keys=self.keys[index],
                values=self.values[index],
                mask=self.mask,
                sums=self.sums[index],
                counts=self.counts[index],
            )
        return LayerState(self.space[index] if has_space else None, past)

    def after(self, layers: Sequence[LayerState], num_tokens: torch.Tensor) -> Self:
        """Return the state after more tokens, cut from the graph.

        Args:
            layers: what each layer keeps now.
            num_tokens: (B,) int64, how many there were.
        """
        changed = {"position": self.position + num_tokens}
        spaces = [each.space for each in layers if each.space is not None]
        pasts = [each.past for each in layers if each.past is not None]
        if spaces:
            changed["space"] = torch.stack(spaces)
        if pasts:
            changed["mask"] = pasts[0].mask
            for name in ("codes", "keys", "values", "sums", "counts"):
                changed[name] = torch.stack([getattr(each, name) for each in pasts])
        return replace(self, **changed).detach()


def state_shapes(
    config: LongVQConfig, batch_size: int
) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
    """Return shape and dtype of each tensor; None: that of the model."""
    parts = {StateSpace.NONE: 0, StateSpace.EMA: 1, StateSpace.S4D: 2}[config.state_space]
    modes = config.state_size // max(1, parts) if parts else 0
    window = 0 if config.attention is Attention.NONE else config.window
    of_heads = config.num_layers, batch_size, config.num_heads
    num_codes = config.num_far_codes
    return {
        "position": ((batch_size,), torch.int64),
        "space": ((config.num_layers, batch_size, config.dim, modes, parts), None),
        "mask": ((batch_size, window), torch.bool),
        "codes": ((*of_heads, window), torch.int64),
        "keys": ((*of_heads, window, config.key_dim), None),
        "values": ((*of_heads, window, config.head_dim), None),
        "sums": ((*of_heads, num_codes, config.head_dim), None),
        "counts": ((*of_heads, num_codes), None),
    }


def initial_state(
    config: LongVQConfig, batch_size: int, *, device: torch.device, dtype: torch.dtype
) -> LongVQState:
    """Return the state at the start of `batch_size` texts: zeros.

    Raises:
        ConfigError: if the model has none: it looks ahead, or attends to every token.
    """
    if not config.is_causal or config.attention is Attention.FULL:
        raise ConfigError(
            "state: got a model that looks ahead or attends to every token, wanted is_causal with "
            "attention vq, band or none; give it whole texts",
            option="is_causal",
        )
    return LongVQState(
        **{
            name: torch.zeros(shape, device=device, dtype=kind or dtype)
            for name, (shape, kind) in state_shapes(config, batch_size).items()
        }
    )


def check_state(state: LongVQState, config: LongVQConfig, batch_size: int) -> None:
    """Refuse a state that is not this model's.

    Raises:
        ShapeError: if it is of another batch size or shape.
    """
    wanted = {name: shape for name, (shape, _) in state_shapes(config, batch_size).items()}
    got = {name: tuple(each.shape) for name, each in state.to_tensors().items()}
    if got != wanted:
        raise ShapeError(
            f"state: got {got}, wanted {wanted}; take a state that this model made, with a row for "
            "each row of tokens"
        )
