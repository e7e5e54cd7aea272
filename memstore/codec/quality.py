"""How much a codec loses on given vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from memstore.codec.sample import Sample
from memstore.errors import ShapeError
from memstore.types import Codec

_ROWS = 4096  # measured at a time
_EPSILON = 1e-12  # of a variance: a vector without any stays zero


@dataclass(frozen=True, slots=True)
class ReconstructionError:
    """The distance between vectors x and their decoded records x'.

    Attributes:
        relative_mse: sum |x - x'|^2 / sum |x - mean|^2, both sums over all vectors: 0 is exact, 1
            is what the mean alone gives.
        cosine: mean cosine between x and x'.
        layer_norm_mse: the same ratio after LayerNorm without gain and bias: what a post-norm
            reader sees.
        rms_norm_mse: the same after RMSNorm.
    """

    relative_mse: float
    cosine: float
    layer_norm_mse: float
    rms_norm_mse: float


def reconstruction(
    vectors: np.ndarray,
    codec: Codec,
    token_ids: np.ndarray | None = None,
    offsets: np.ndarray | None = None,
) -> ReconstructionError:
    """Encode and decode vectors, and measure what is lost.

    Args:
        vectors: (T, D) floating point, finite; not those that the codec was trained on.
        codec: the codec to measure.
        token_ids: (T,) integers, for a codec that needs them.
        offsets: (P + 1,) int64: passage i is rows `offsets[i]:offsets[i + 1]`; None: one passage.

    Raises:
        ShapeError: if there are fewer than two vectors, they are all equal, or the codec refuses
            them.
    """

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part in Sample(vectors, token_ids, offsets).blocks(_ROWS):
            records = codec.encode(part.vectors, part.token_ids, part.offsets)
            yield part.vectors, codec.decode(records, part.offsets)

    return measure(pairs())


def measure(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> ReconstructionError:
    """Measure the error of decoded vectors, which come in parts.

    Args:
        pairs: (T, D) vectors and (T, D) what became of them, floating point.

    Raises:
        ShapeError: if there are fewer than two vectors, or they are all equal.
    """
    plain, layer, rms = _Ratio(), _Ratio(), _Ratio()
    cosines = 0.0
    for vectors, decoded in pairs:
        for start in range(0, len(vectors), _ROWS):
            x = vectors[start : start + _ROWS].astype(np.float64)
            y = decoded[start : start + _ROWS].astype(np.float64)
            plain.add(x, y)
            rms.add(_rms_norm(x), _rms_norm(y))
            layer.add(_layer_norm(x), _layer_norm(y))
            lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
            # A vector of length zero has no direction to lose: its cosine counts as 0.
            cosines += float(((x * y).sum(axis=1) / np.maximum(lengths, 1e-30)).sum())
    if not plain.spread:
        raise ShapeError(
            "vectors: wanted at least two that differ, to measure an error against their spread"
        )
    return ReconstructionError(plain.value, cosines / plain.count, layer.value, rms.value)


class _Ratio:
    """sum |x - y|^2 / sum |x - mean|^2, of parts; the spread is merged as Chan et al. do."""

    def __init__(self) -> None:
        self.count = 0
        self.error = self.spread = 0.0
        self._mean: np.ndarray | float = 0.0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        self.error += float(np.square(x - y).sum())
        mean = x.mean(axis=0)
        apart = mean - self._mean
        total = self.count + len(x)
        self.spread += float(np.square(x - mean).sum())
        self.spread += float(np.square(apart).sum()) * self.count * len(x) / total
        self._mean = self._mean + apart * (len(x) / total)
        self.count = total

    @property
    def value(self) -> float:
        """The ratio; 0 if nothing varies and nothing is lost."""
        if not self.spread:
            return 0.0 if not self.error else float("inf")
        return self.error / self.spread


def _layer_norm(x: np.ndarray) -> np.ndarray:
    return _rms_norm(x - x.mean(axis=1, keepdims=True))


def _rms_norm(x: np.ndarray) -> np.ndarray:
    normed: np.ndarray = x / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + _EPSILON)
    return normed
