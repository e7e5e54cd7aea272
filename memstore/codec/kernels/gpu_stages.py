"""The codec's two linear stages on a GPU: `rotation.py` and `predictor.py` in torch.

A passage is looked at as a whole only for what is small, a few features a token. Vectors are made
from that for any rows, so a batch is worked off in blocks, whatever its passages.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from memstore.codec.predictor import NEIGHBOURS, TokenPredictor
from memstore.codec.rotation import Rotation

_precision_lock = threading.Lock()


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array, bfloat16 or of torch's dtypes, to the device; it may be a read-only map."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(device)
    return torch.from_numpy(array.copy()).to(device)


@contextmanager
def float32_products(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices as such: neither in TF32 nor as an autocast would have it.

    torch keeps the first of these for the whole process. It is put back when the products are
    queued, and until then no other thread of ours changes it.
    """
    matmul = torch.backends.cuda.matmul
    with _precision_lock, torch.autocast(device.type, enabled=False):
        before = matmul.fp32_precision
        matmul.fp32_precision = "ieee"
        try:
            yield
        finally:
            matmul.fp32_precision = before


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is added, in float32, to a record's centroids before the cast.

    Attributes:
        table: (V, D) bfloat16 or float32, what is expected of each token id.
        token_ids: (N,) int32, below V.
        addend: (N, D) float32, what is expected for other reasons, or None.
    """

    table: torch.Tensor
    token_ids: torch.Tensor
    addend: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class GpuRotation:
    """A `Rotation` on the device: y = blockdiag(blocks) @ x[order].

    Attributes:
        blocks: (B, b, b) float32.
        order: (D,) int64.
        inverse: (D,) int64, the permutation that undoes `order`.
    """

    blocks: torch.Tensor
    order: torch.Tensor
    inverse: torch.Tensor

    @classmethod
    def of(cls, rotation: Rotation, device: torch.device) -> GpuRotation:
        """Copy a rotation to the device."""
        order = to_device(rotation.order.astype(np.int64), device)
        return cls(to_device(rotation.blocks, device), order, order.argsort())

    def apply(self, vectors: torch.Tensor) -> torch.Tensor:
        """Turn (T, D) float32 vectors into the rotated basis."""
        return self._multiply(vectors[:, self.order], self.blocks.mT)

    def undo(self, rotated: torch.Tensor) -> torch.Tensor:
        """Turn (T, D) float32 vectors back from the rotated basis."""
        return self._multiply(rotated, self.blocks)[:, self.inverse]

    def _multiply(self, vectors: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
        """Multiply each block of the rows from the right."""
        parts = vectors.reshape(len(vectors), *blocks.shape[:2]).transpose(0, 1)  # (B, T, b)
        with float32_products(vectors.device):
            return torch.matmul(parts, blocks).transpose(0, 1).flatten(1)


@dataclass(frozen=True, slots=True, eq=False)
class GpuPredictor:
    """A `TokenPredictor` on the device, with the same tables."""

    tokens: torch.Tensor
    positions: torch.Tensor
    features: torch.Tensor
    context: torch.Tensor

    @classmethod
    def of(cls, predictor: TokenPredictor, device: torch.device) -> GpuPredictor:
        """Copy a predictor's tables to the device."""
        return cls(
            to_device(predictor.tokens, device),
            to_device(predictor.positions, device),
            to_device(predictor.features, device),
            to_device(predictor.context, device),
        )

    def expect(self, token_ids: torch.Tensor, offsets: torch.Tensor) -> Expectation:
        """Look at whole passages.

        Args:
            token_ids: (T,) int32; for those that are not below V, any other is looked up.
            offsets: (P + 1,) int64, rising from 0 to T.
        """
        row = torch.arange(len(token_ids), device=token_ids.device)
        passage = torch.searchsorted(offsets, row, right=True) - 1
        first, stop = offsets[passage], offsets[passage + 1]
        places = (row - first).clamp(max=len(self.positions) - 1)
        own = self.features[token_ids.clamp(0, len(self.tokens) - 1)]  # (T, r)
        if not own.numel():
            return Expectation(self, token_ids, places, own)
        around = []
        for step in NEIGHBOURS:
            is_outside = (row + step < first) | (row + step >= stop)
            neighbour = own[(row + step).clamp(0, len(row) - 1)]
            around.append(neighbour.masked_fill(is_outside[:, None], 0))
        around.append(torch.segment_reduce(own, "mean", offsets=offsets)[passage])
        return Expectation(self, token_ids, places, torch.cat(around, dim=1))


@dataclass(frozen=True, slots=True, eq=False)
class Expectation:
    """What a predictor expects of the tokens of a batch, made for some rows at a time.

    Attributes:
        predictor: whose tables are used.
        token_ids: (T,) int32.
        places: (T,) int64, rows of `predictor.positions`.
        around: (T, 5 r) float32, what `predictor.context` is multiplied with.
    """

    predictor: GpuPredictor
    token_ids: torch.Tensor
    places: torch.Tensor
    around: torch.Tensor

    def prediction(self, rows: slice) -> Prediction:
        """Return what `gather` adds for these rows."""
        return Prediction(self.predictor.tokens, self.token_ids[rows], self._place(rows))

    def vectors(self, rows: slice) -> torch.Tensor:
        """Return (rows, D) float32; the token ids must be known ones."""
        return self._place(rows).add_(self.predictor.tokens[self.token_ids[rows]])

    def _place(self, rows: slice) -> torch.Tensor:
        """Return (rows, D) float32, what comes from place and neighbours."""
        expected = self.predictor.positions[self.places[rows]]
        if self.around.shape[1]:
            with float32_products(expected.device):
                expected.addmm_(self.around[rows], self.predictor.context)
        return expected
