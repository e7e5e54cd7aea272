"""Quantizers that are compared: product codecs, and simpler or finer ones that stand beside them.

Each keeps a token in arrays of one row a token, so that its bytes can be counted rather than told.

Does not: serve. Only a `ProductCodec` is stored; the others are there to be measured against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import ml_dtypes
import numpy as np

from memstore.codec import tensorfile
from memstore.codec.config import TENSOR_FILE
from memstore.codec.product import ProductCodec
from memstore.codec.sample import Sample
from memstore.errors import ConfigError

Encoded = tuple[np.ndarray, ...]
"""What is kept of T tokens: arrays of T rows."""

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_ROWS = 1 << 14  # vectors of a sample that are summed at a time


class Quantizer(Protocol):
    """Memories to arrays of one row a token, and back."""

    @property
    def tensor_bytes(self) -> int:
        """What a reader must have to decode: all tables together."""
        ...

    def encode(self, sample: Sample) -> Encoded:
        """Keep T memories."""
        ...

    def decode(self, encoded: Encoded, offsets: np.ndarray | None) -> np.ndarray:
        """Return (T, D) float32."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A product codec."""

    codec: ProductCodec

    @property
    def tensor_bytes(self) -> int:
        """See `Quantizer.tensor_bytes`."""
        file = np.frombuffer(self.codec.files()[TENSOR_FILE], np.uint8)
        return sum(tensor.nbytes for tensor in tensorfile.parse(file, where="codec").values())

    def encode(self, sample: Sample) -> Encoded:
        """See `Quantizer.encode`."""
        return (self.codec.encode(sample.vectors, sample.token_ids, sample.offsets),)

    def decode(self, encoded: Encoded, offsets: np.ndarray | None) -> np.ndarray:
        """See `Quantizer.decode`."""
        return self.codec.decode(encoded[0], offsets)


@dataclass(frozen=True, slots=True, eq=False)
class NormedCodes:
    """A product codec of directions; the length stands beside the codes, one word of bfloat16."""

    codec: Codes

    @property
    def tensor_bytes(self) -> int:
        """See `Quantizer.tensor_bytes`."""
        return self.codec.tensor_bytes

    def encode(self, sample: Sample) -> Encoded:
        """See `Quantizer.encode`."""
        directions, norms = directions_of(sample.vectors)
        return *self.codec.encode(Sample(directions)), norms.astype(_BFLOAT16)

    def decode(self, encoded: Encoded, offsets: np.ndarray | None) -> np.ndarray:
        """See `Quantizer.decode`."""
        vectors = self.codec.decode(encoded[:1], offsets)
        vectors *= encoded[1].astype(np.float32)
        return vectors


@dataclass(frozen=True, slots=True, eq=False)
class ScaledIntegers:
    """Integers of 4 or 8 bits about the mean, with a scale in bfloat16 for each group of values.

    Attributes:
        bits: 4 or 8.
        group: values that share a scale.
        mean: (D,) float32.
        basis: (r, D) float32, orthonormal rows: only these r coordinates are kept; None: all D.
    """

    bits: int
    group: int
    mean: np.ndarray
    basis: np.ndarray | None = None

    @property
    def tensor_bytes(self) -> int:
        """See `Quantizer.tensor_bytes`."""
        return self.mean.nbytes + (self.basis.nbytes if self.basis is not None else 0)

    @property
    def _largest(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def encode(self, sample: Sample) -> Encoded:
        """See `Quantizer.encode`."""
        values = sample.vectors.astype(np.float32) - self.mean
        if self.basis is not None:
            values = values @ self.basis.T
        groups = self._groups(values)  # (T, G, group)
        scales = (np.abs(groups).max(axis=2) / self._largest).astype(_BFLOAT16)
        steps = np.where(scales > 0, scales.astype(np.float32), 1)[:, :, None]
        levels = np.clip(np.rint(groups / steps), -self._largest, self._largest).astype(np.int8)
        levels = levels.reshape(len(values), -1)[:, : values.shape[1]]
        return (_pack_nibbles(levels) if self.bits == 4 else levels), scales

    def decode(self, encoded: Encoded, offsets: np.ndarray | None) -> np.ndarray:
        """See `Quantizer.decode`."""
        levels, scales = encoded
        width = len(self.basis) if self.basis is not None else len(self.mean)
        if self.bits == 4:
            levels = _unpack_nibbles(levels)[:, :width]
        groups = self._groups(levels.astype(np.float32))
        groups *= scales.astype(np.float32)[:, :, None]
        values = groups.reshape(len(levels), -1)[:, :width]
        if self.basis is not None:
            values = values @ self.basis
        vectors: np.ndarray = values + self.mean
        return vectors

    def _groups(self, values: np.ndarray) -> np.ndarray:
        """Cut (T, r) into (T, G, group), the last group filled up with zeros."""
        padded = np.pad(values, ((0, 0), (0, -values.shape[1] % self.group)))
        return padded.reshape(len(values), -1, self.group)


def directions_of(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, D) float32 of length 1 and (N, 1) float32 lengths; a zero vector stays zero."""
    wide = vectors.astype(np.float32)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.maximum(norms, np.finfo(np.float32).tiny), norms


def moments(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) and the covariance (D, D) of (N, D) vectors, float64."""
    dim = vectors.shape[1]
    total, square = np.zeros(dim), np.zeros((dim, dim))
    for start in range(0, len(vectors), _ROWS):
        rows = vectors[start : start + _ROWS].astype(np.float32)
        total += rows.sum(axis=0, dtype=np.float64)
        square += rows.T @ rows
    mean = total / len(vectors)
    return mean, square / len(vectors) - np.outer(mean, mean)


def train_integers(
    vectors: np.ndarray, bits: int, group: int, num_kept: int | None = None
) -> ScaledIntegers:
    """Fit the mean, and the basis of the `num_kept` loudest principal axes, to (N, D) vectors.

    Raises:
        ConfigError: if there are not so many axes, or not one.
    """
    mean, covariance = moments(vectors)
    if num_kept is None:
        return ScaledIntegers(bits, group, mean.astype(np.float32))
    if not 1 <= num_kept <= len(mean):
        raise ConfigError(f"got {num_kept} principal axes, wanted 1 to {len(mean)}")
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :num_kept]
    basis = np.ascontiguousarray(axes.T, dtype=np.float32)
    return ScaledIntegers(bits, group, mean.astype(np.float32), basis)


def _pack_nibbles(levels: np.ndarray) -> np.ndarray:
    """Put two of (T, n) levels of -7 to 7 in a byte, the first in its low half."""
    padded = np.pad(levels + 8, ((0, 0), (0, levels.shape[1] % 2))).astype(np.uint8)
    packed: np.ndarray = padded[:, ::2] | padded[:, 1::2] << 4
    return packed


def _unpack_nibbles(packed: np.ndarray) -> np.ndarray:
    levels = np.stack([packed & 15, packed >> 4], axis=2).astype(np.int8) - 8
    return levels.reshape(len(packed), -1)
