"""What a model carries from one part of a text to the next: a dataclass of named tensors.

Zeros are the start of a text, for every tensor of every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

import torch

from memstore.errors import CorruptionError

SECOND = {"batch_axis": 1}
"""Metadata of a field whose second axis has a place for each text; else it is the first."""

INTEGER = {"is_integer": True}
"""Metadata of a field of whole numbers or truth values."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorState:
    """What states have in common, whatever their tensors."""

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
        for each in fields(self):
            tensor = getattr(self, each.name)
            shape = [1] * tensor.ndim
            shape[each.metadata.get("batch_axis", 0)] = -1
            fresh[each.name] = tensor.masked_fill(rows.to(tensor.device).reshape(shape), 0)
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
        is_integer = {each.name: each.metadata.get("is_integer", False) for each in fields(cls)}
        if tensors.keys() != is_integer.keys():
            raise CorruptionError(
                f"{where}: got tensors {sorted(tensors)}, wanted {sorted(is_integer)}, those of "
                f"{cls.__name__}; restore the state",
                object=where,
            )
        for name, tensor in tensors.items():
            if tensor.is_floating_point() == is_integer[name]:
                raise CorruptionError(
                    f"{where}: {name} has dtype {tensor.dtype}; restore the state", object=where
                )
        return cls(**tensors)
