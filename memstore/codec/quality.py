"""How much a codec loses on given vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memstore.errors import ShapeError
from memstore.types import Codec

_ROWS = 4096  # encoded at a time


@dataclass(frozen=True, slots=True)
class ReconstructionError:
    """The distance between vectors x and their decoded records x'.

    Attributes:
        relative_mse: sum |x - x'|^2 / sum |x - mean|^2, both sums over all vectors: 0 is exact, 1
            is what the mean alone gives.
        cosine: mean cosine between x and x'.
    """

    relative_mse: float
    cosine: float


def reconstruction(vectors: np.ndarray, codec: Codec) -> ReconstructionError:
    """Encode and decode vectors, and measure what is lost.

    Args:
        vectors: (T, D) floating point, finite; not those that the codec was trained on.
        codec: the codec to measure.

    Raises:
        ShapeError: if there are fewer than two vectors, they are all equal, or the codec refuses
            them.
    """
    if not len(vectors):
        raise _without_spread()
    mean = vectors.mean(axis=0, dtype=np.float64)
    error = spread = cosine = 0.0
    for start in range(0, len(vectors), _ROWS):
        block = vectors[start : start + _ROWS].astype(np.float64)
        decoded = codec.decode(codec.encode(vectors[start : start + _ROWS])).astype(np.float64)
        error += float(np.square(block - decoded).sum())
        spread += float(np.square(block - mean).sum())
        lengths = np.linalg.norm(block, axis=1) * np.linalg.norm(decoded, axis=1)
        # A vector of length zero has no direction to lose: its cosine counts as 0.
        cosine += float(((block * decoded).sum(axis=1) / np.maximum(lengths, 1e-30)).sum())
    if spread == 0:
        raise _without_spread()
    return ReconstructionError(relative_mse=error / spread, cosine=cosine / len(vectors))


def _without_spread() -> ShapeError:
    return ShapeError(
        "vectors: wanted at least two that differ, to measure an error against their spread"
    )
