"""What a model carries from one segment of a text to the next.

A state is taken at the end of a window; tokens of a window that is not full belong to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from memstore.errors import ShapeError
from memstore.models.melodi_config import Architecture, MelodiConfig
from memstore.models.states import INTEGER, SECOND, TensorState


@dataclass(frozen=True, slots=True, eq=False)
class StreamState(TensorState):
    """What all states have.

    Attributes:
        position: (B,) int64, tokens of each text that the state has taken in; full windows.
    """

    position: torch.Tensor = field(metadata=INTEGER)


@dataclass(frozen=True, slots=True, eq=False)
class MelodiState(StreamState):
    """MELODI's two memories.

    Attributes:
        short: (layers, B, S, D), what the last window left to the next one, layer by layer.
        queue: (B, L·Q, D), embeddings that the windows left, the latest last. Keys and values are
            made of them anew with the weights of the day.
    """

    short: torch.Tensor = field(metadata=SECOND)
    queue: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TransformerXLState(StreamState):
    """The keys and values of the last window.

    Attributes:
        keys, values: (layers, B, H, W, D / H).
    """

    keys: torch.Tensor = field(metadata=SECOND)
    values: torch.Tensor = field(metadata=SECOND)


@dataclass(frozen=True, slots=True, eq=False)
class MemorizingState(StreamState):
    """The keys and values of the last window, and one layer's of many windows.

    Attributes:
        keys, values: (layers, B, H, W, D / H).
        queue_keys, queue_values: (B, H, W·Q, D / H), the latest last.
    """

    keys: torch.Tensor = field(metadata=SECOND)
    values: torch.Tensor = field(metadata=SECOND)
    queue_keys: torch.Tensor
    queue_values: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class BlockRecurrentState(StreamState):
    """The keys and values of the last window in all layers but one, and that one's states.

    Attributes:
        keys, values: (layers - 1, B, H, W, D / H).
        recurrent: (B, W, D); at the start of a text (position 0) the model puts its learned
            states in their place.
    """

    keys: torch.Tensor = field(metadata=SECOND)
    values: torch.Tensor = field(metadata=SECOND)
    recurrent: torch.Tensor


STATES: Mapping[Architecture, type[StreamState]] = {
    Architecture.MELODI: MelodiState,
    Architecture.TRANSFORMER_XL: TransformerXLState,
    Architecture.MEMORIZING: MemorizingState,
    Architecture.BLOCK_RECURRENT: BlockRecurrentState,
}


def state_shapes(config: MelodiConfig, batch_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's state by name, `position` left out."""
    layers, heads, width = config.num_layers, config.num_heads, config.window
    if config.architecture is Architecture.MELODI:
        return {
            "short": (layers, batch_size, config.num_short_tokens, config.dim),
            "queue": (batch_size, config.queue_length, config.dim),
        }
    shapes: dict[str, tuple[int, ...]]
    if config.architecture is Architecture.BLOCK_RECURRENT:
        layers -= 1
        shapes = {"recurrent": (batch_size, width, config.dim)}
    elif config.architecture is Architecture.MEMORIZING:
        queue = (batch_size, heads, width * config.queue_windows, config.head_dim)
        shapes = {"queue_keys": queue, "queue_values": queue}
    else:
        shapes = {}
    cache = (layers, batch_size, heads, width, config.head_dim)
    return {"keys": cache, "values": cache, **shapes}


def initial_state(
    config: MelodiConfig,
    batch_size: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> StreamState:
    """Return the state at the start of `batch_size` texts: zeros."""
    tensors = {
        name: torch.zeros(shape, device=device, dtype=dtype)
        for name, shape in state_shapes(config, batch_size).items()
    }
    tensors["position"] = torch.zeros(batch_size, device=device, dtype=torch.int64)
    return STATES[config.architecture].from_tensors(tensors, where="start of a text")


def check_state(state: StreamState, config: MelodiConfig, batch_size: int) -> None:
    """Refuse a state that is not this model's.

    Raises:
        ShapeError: if it is of another architecture, batch size or shape.
    """
    wanted: dict[str, Any] = {
        "position": (batch_size,),
        **state_shapes(config, batch_size),
    }
    got = {name: tuple(each.shape) for name, each in state.to_tensors().items()}
    if got != wanted:
        raise ShapeError(
            f"state: got {type(state).__name__} of {got}, wanted {wanted}; take a state that this "
            "model made, with a row for each row of tokens"
        )
