"""Two codes a subspace, the second for what the first leaves: a residual quantizer, in NumPy.

Does not: run fast. It is there to show what the second stage is worth in error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memstore.codec.rotation import Rotation
from memstore.codec.sample import Sample
from memstore.codec.training import train_codebook

_CENTROIDS = 256
_BEAM = 5  # first codes that are tried with every second code
_ROUNDS = 2
_ROWS_TO_REFINE = 1 << 15
_ROWS = 1 << 13  # that are encoded at a time


@dataclass(frozen=True, slots=True, eq=False)
class ResidualCodes:
    """x = undo(rotation, first[i] + second[j]), subspace by subspace.

    Attributes:
        first, second: (M, 256, D/M) float32.

    Source: residual vector quantization with beam search, Chen et al. 2010 and Liu et al. 2015.
    """

    rotation: Rotation
    first: np.ndarray
    second: np.ndarray

    @property
    def tensor_bytes(self) -> int:
        """See `Quantizer.tensor_bytes`; centroids count as bfloat16, as in product codecs."""
        centroid_bytes = 2 * (self.first.size + self.second.size)
        return centroid_bytes + self.rotation.blocks.nbytes + self.rotation.order.nbytes

    def encode(self, sample: Sample) -> tuple[np.ndarray, ...]:
        """See `Quantizer.encode`."""
        rotated = self.rotation.apply(sample.vectors.astype(np.float32))
        return (self._search(rotated),)

    def decode(self, encoded: tuple[np.ndarray, ...], offsets: np.ndarray | None) -> np.ndarray:
        """See `Quantizer.decode`."""
        codes = encoded[0]
        subspaces = np.arange(len(self.first))
        vectors = self.first[subspaces, codes[:, 0]] + self.second[subspaces, codes[:, 1]]
        return self.rotation.undo(vectors.reshape(len(codes), -1))

    def _search(self, rotated: np.ndarray) -> np.ndarray:
        """Return (T, 2, M) uint8: the best pair among all with one of the nearest first codes."""
        num_subspaces, _, width = self.first.shape
        codes = np.empty((len(rotated), 2, num_subspaces), np.uint8)
        for m in range(num_subspaces):
            for start in range(0, len(rotated), _ROWS):
                rows = slice(start, start + _ROWS)
                part = rotated[rows, m * width : (m + 1) * width]
                codes[rows, :, m] = _best_pairs(part, self.first[m], self.second[m])
        return codes

    def _refined(self, rotated: np.ndarray) -> ResidualCodes:
        """Fit both codebooks to the codes of some vectors: least squares, by turns."""
        codes = self._search(rotated)
        first, second = self.first.copy(), self.second.copy()
        width = first.shape[2]
        for m in range(len(first)):
            part = rotated[:, m * width : (m + 1) * width]
            for _ in range(3):
                _fit(first[m], codes[:, 0, m], part - second[m][codes[:, 1, m]])
                _fit(second[m], codes[:, 1, m], part - first[m][codes[:, 0, m]])
        return ResidualCodes(self.rotation, first, second)


def train_residual(
    vectors: np.ndarray, rotation: Rotation, num_subspaces: int, seed: int
) -> ResidualCodes:
    """Train on (N, D) vectors: stage after stage, then both together on a part of the vectors.

    Raises:
        ShapeError: as `train_codebook`.
    """
    rotated = rotation.apply(vectors.astype(np.float32))
    width = rotated.shape[1] // num_subspaces
    first = train_codebook(rotated, num_subspaces, _CENTROIDS, seed=seed)
    rest = np.empty_like(rotated)
    for m in range(num_subspaces):
        columns = slice(m * width, (m + 1) * width)
        for start in range(0, len(rotated), _ROWS):
            rows = slice(start, start + _ROWS)
            part = rotated[rows, columns]
            rest[rows, columns] = part - first[m][_scores(part, first[m]).argmin(axis=1)]
    second = train_codebook(rest, num_subspaces, _CENTROIDS, seed=seed)
    codes = ResidualCodes(rotation, first, second)
    step = -(-len(rotated) // _ROWS_TO_REFINE)
    for _ in range(_ROUNDS):
        codes = codes._refined(rotated[::step])
    return codes


def _scores(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return (T, K): squared distances, but for what is the same for all centroids."""
    scores: np.ndarray = np.square(centroids).sum(axis=1) - 2 * vectors @ centroids.T
    return scores


def _best_pairs(vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (T, 2) codes; |x - a - b|^2 = |x|^2 + score(a) + score(b) + 2 a.b."""
    of_first, of_second = _scores(vectors, first), _scores(vectors, second)
    together = 2 * first @ second.T
    near = np.argpartition(of_first, _BEAM, axis=1)[:, :_BEAM]
    rows = np.arange(len(vectors))
    best = np.full(len(vectors), np.inf, np.float32)
    pairs = np.empty((len(vectors), 2), np.uint8)
    for a in near.T:
        scores = of_second + together[a]
        b = scores.argmin(axis=1)
        total = of_first[rows, a] + scores[rows, b]
        better = total < best
        best[better] = total[better]
        pairs[better] = np.stack([a, b], axis=1)[better]
    return pairs


def _fit(centroids: np.ndarray, codes: np.ndarray, targets: np.ndarray) -> None:
    """Move centroids, in place, to the means of their targets; those without any stay."""
    counts = np.bincount(codes, minlength=len(centroids))
    used = counts > 0
    for axis in range(centroids.shape[1]):
        sums = np.bincount(codes, weights=targets[:, axis], minlength=len(centroids))
        centroids[used, axis] = sums[used] / counts[used]
