"""The linear stages around a vector quantizer as a torch module: a codec's, in its buffers.

Does not: learn; the stages are fitted with the codec (`codec/fit_rotation.py`, `fit_predictor.py`).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import nn

from memstore.codec import arguments

# In torch, on any device.
from memstore.codec.kernels.gpu_stages import GpuPredictor, GpuRotation, to_device
from memstore.codec.predictor import TokenPredictor
from memstore.codec.rotation import Rotation
from memstore.errors import ShapeError

_ROTATION = ("blocks", "order")
_PREDICTOR = ("tokens", "positions", "features", "context")


class Stages(nn.Module):
    """Memories to what is quantized and back: minus the prediction, in the rotated basis.

    Args:
        dim: D.
        rotation: of D dimensions, or None.
        predictor: of D dimensions, in the rotated basis, or None.

    Raises:
        ShapeError: if a stage is of another width.
    """

    def __init__(
        self, dim: int, rotation: Rotation | None, predictor: TokenPredictor | None
    ) -> None:
        super().__init__()
        arguments.check_stages(dim, rotation, predictor)
        self.dim = dim
        self.has_rotation, self.has_predictor = rotation is not None, predictor is not None
        for prefix, stage, names in (
            ("rotation_", rotation, _ROTATION), ("predictor_", predictor, _PREDICTOR),
        ):  # fmt: skip
            if stage is not None:
                for name in names:
                    tensor = to_device(getattr(stage, name), torch.device("cpu"))
                    self.register_buffer(prefix + name, tensor)

    def enter(
        self, memories: torch.Tensor, token_ids: torch.Tensor | None, offsets: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what is quantized, (T, D) float32, and what was subtracted from it, if anything.

        Raises:
            ShapeError: if they are not such tensors as `ProductVQ.forward` takes.
        """
        _check_memories(memories, self.dim)
        vectors = memories.detach().float()
        if self.has_rotation:
            vectors = self._on_device().apply(vectors)
        if not self.has_predictor:
            return vectors, None
        expected = self._expected(token_ids, offsets, len(memories))
        return vectors - expected, expected

    def leave(self, vectors: torch.Tensor, expected: torch.Tensor | None) -> torch.Tensor:
        """Return (T, D) float32 memories of what was quantized."""
        if expected is not None:
            vectors = vectors + expected
        return self._on_device().undo(vectors) if self.has_rotation else vectors

    def rotation(self) -> Rotation | None:
        """Return the rotation as the codec has it."""
        return Rotation(*self._arrays("rotation_", _ROTATION)) if self.has_rotation else None

    def predictor(self) -> TokenPredictor | None:
        """Return the predictor as the codec has it."""
        if not self.has_predictor:
            return None
        return TokenPredictor(*self._arrays("predictor_", _PREDICTOR))

    def _on_device(self) -> GpuRotation:
        order = self.get_buffer("rotation_order").long()
        return GpuRotation(self.get_buffer("rotation_blocks"), order, order.argsort())

    def _expected(
        self, token_ids: torch.Tensor | None, offsets: torch.Tensor | None, num_tokens: int
    ) -> torch.Tensor:
        predictor = GpuPredictor(*(self.get_buffer(f"predictor_{name}") for name in _PREDICTOR))
        checked_ids = _check_token_ids(token_ids, num_tokens, predictor.tokens)
        if offsets is not None and not isinstance(offsets, torch.Tensor):
            raise ShapeError("offsets: wanted a tensor (P + 1,) of integers")
        ends = arguments.as_offsets(None if offsets is None else _array(offsets), num_tokens)
        if not num_tokens:
            return predictor.positions[:0]
        rising = torch.from_numpy(ends).to(checked_ids.device)
        return predictor.expect(checked_ids, rising).vectors(slice(None))

    def _arrays(self, prefix: str, names: tuple[str, ...]) -> list[np.ndarray]:
        return [_array(self.get_buffer(prefix + name)) for name in names]


def _check_memories(memories: Any, dim: int) -> None:
    if not isinstance(memories, torch.Tensor) or not memories.is_floating_point():
        raise ShapeError(f"memories: wanted a floating-point tensor (T, {dim})")
    if memories.ndim != 2 or memories.shape[1] != dim:
        raise ShapeError(
            f"memories: got shape {tuple(memories.shape)}, wanted (T, {dim}): passages one after "
            "another, without padding"
        )


def _check_token_ids(token_ids: Any, num_tokens: int, table: torch.Tensor) -> torch.Tensor:
    """Return (T,) ids of rows of the table, as they are; refuse what are not."""
    if token_ids is None:
        raise ShapeError("token_ids: got none; the quantizer predicts from them, one a memory")
    if not isinstance(token_ids, torch.Tensor) or token_ids.dtype not in (torch.int32, torch.int64):
        raise ShapeError("token_ids: wanted a tensor (T,) of int32 or int64")
    if token_ids.shape != (num_tokens,) or token_ids.device != table.device:
        raise ShapeError(
            f"token_ids: got shape {tuple(token_ids.shape)} on {token_ids.device}, wanted "
            f"({num_tokens},) on {table.device}"
        )
    bad_rows = torch.nonzero((token_ids < 0) | (token_ids >= len(table)))
    if len(bad_rows):
        row = int(bad_rows[0])
        raise ShapeError(
            f"token_ids: row {row} is {int(token_ids[row])}, wanted 0 to {len(table) - 1}", row=row
        )
    return token_ids


def _array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array, bit for bit."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        bits: np.ndarray = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray = tensor.numpy()
    return array
