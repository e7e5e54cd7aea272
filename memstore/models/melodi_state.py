"""What a model carries from one segment of a text to the next: named tensors, a row per text.

A state is taken at the end of a window; tokens of a window that is not full belong to the caller.
Zeros are the start of a text, for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch

from memstore.errors import CorruptionError, ShapeError
from memstore.models.melodi_config import Architecture, MelodiConfig

_SECOND = {"batch_axis": 1}


@dataclass(frozen=True, slots=True, eq=False)
class StreamState:
    """What all states have.

    Attributes:
        position: (B,) int64, tokens of each text that the state has taken in; full windows.
    """

    position: torch.Tensor

    def detach(self) -> Self:
        """Cut the state from the graph that made it."""
        return replace(self, **{name: each.detach() for name, each in self.to_tensors().items()})

    def to(self, device: torch.device | str) -> Self:
        """Copy the state to a device."""
        return replace(self, **{name: each.to(device) for name, each in self.to_tensors().items()})

    def reset(self, rows: torch.Tensor) -> Self:
        """Put some rows back to the start of a text; the others are untouched.

        Args:
            rows: (B,) bool, True for a row that begins a new text.
        """
        fresh = {}
        for name, axis in _batch_axes(type(self)).items():
            tensor = getattr(self, name)
            shape = [1] * tensor.ndim
            shape[axis] = -1
            fresh[name] = tensor.masked_fill(rows.to(tensor.device).reshape(shape), 0)
        return replace(self, **fresh)

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name, contiguous, as safetensors wants them."""
        return {each.name: getattr(self, each.name).contiguous() for each in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], *, where: str) -> Self:
        """Read back what `to_tensors` gave. Whether it fits a model, the model says.

        Args:
            tensors: by name.
            where: what they were read from, for an error.

        Raises:
            CorruptionError: if one is missing, unknown, or of another kind of number.
        """
        wanted = {each.name for each in fields(cls)}
        if tensors.keys() != wanted:
            raise CorruptionError(
                f"{where}: got tensors {sorted(tensors)}, wanted {sorted(wanted)}, those of "
                f"{cls.__name__}; restore the state",
                object=where,
            )
        for name, tensor in tensors.items():
            if tensor.is_floating_point() == (name == "position"):
                raise CorruptionError(
                    f"{where}: {name} has dtype {tensor.dtype}; restore the state", object=where
                )
        return cls(**tensors)


@dataclass(frozen=True, slots=True, eq=False)
class MelodiState(StreamState):
    """MELODI's two memories.

    Attributes:
        short: (layers, B, S, D), what the last window left to the next one, layer by layer.
        queue: (B, L·Q, D), embeddings that the windows left, the latest last. Keys and values are
            made of them anew with the weights of the day.
    """

    short: torch.Tensor = field(metadata=_SECOND)
    queue: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TransformerXLState(StreamState):
    """The keys and values of the last window.

    Attributes:
        keys, values: (layers, B, H, W, D / H).
    """

    keys: torch.Tensor = field(metadata=_SECOND)
    values: torch.Tensor = field(metadata=_SECOND)


@dataclass(frozen=True, slots=True, eq=False)
class MemorizingState(StreamState):
    """The keys and values of the last window, and one layer's of many windows.

    Attributes:
        keys, values: (layers, B, H, W, D / H).
        queue_keys, queue_values: (B, H, W·Q, D / H), the latest last.
    """

    keys: torch.Tensor = field(metadata=_SECOND)
    values: torch.Tensor = field(metadata=_SECOND)
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

    keys: torch.Tensor = field(metadata=_SECOND)
    values: torch.Tensor = field(metadata=_SECOND)
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


def _batch_axes(kind: type[StreamState]) -> dict[str, int]:
    return {each.name: each.metadata.get("batch_axis", 0) for each in fields(kind)}
