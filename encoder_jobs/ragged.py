"""Rows of different lengths in one array: questions, passages, documents as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of different lengths, one after another.

    Attributes:
        values: (V,) int32.
        offsets: (N + 1,) int64; row i is `values[offsets[i]:offsets[i + 1]]`.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | np.ndarray]) -> Ragged:
        """Lay rows one after another."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        values = np.empty(int(offsets[-1]), np.int32)
        for row, start in zip(rows, offsets[:-1].tolist(), strict=True):
            values[start : start + len(row)] = row
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64, of each row."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Ragged:
        """Return some rows, in the order of their numbers given."""
        return Ragged.of([self[row] for row in rows.tolist()])

    def to_tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Return both arrays, for a file of tensors."""
        return {
            f"{name}.values": torch.from_numpy(self.values),
            f"{name}.offsets": torch.from_numpy(self.offsets),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], name: str) -> Ragged:
        """Read back what `to_tensors` gave."""
        return cls(tensors[f"{name}.values"].numpy(), tensors[f"{name}.offsets"].numpy())
