"""An orthogonal change of basis before the quantizer, dense or block-diagonal.

A product quantizer cuts a vector into subvectors and codes each alone, so it loses what one
subvector knows of another, and spends as many bits on a quiet subvector as on a loud one. In a
basis where dimensions do not correlate and every subspace holds as much variance as the others, the
same bytes carry more (Ge et al. 2013, Optimized Product Quantization).

Does not: find the basis (`rotations.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """y = blockdiag(blocks) @ x[order].

    Attributes:
        blocks: (B, b, b) float32, orthogonal, B * b = D; one block is a dense rotation.
        order: (D,) int32, a permutation: which dimensions meet in a block.

    Cost: 2 D b floating-point operations a vector, each way.
    """

    blocks: np.ndarray
    order: np.ndarray

    @property
    def dim(self) -> int:
        """D."""
        return len(self.order)

    def is_permuted(self) -> bool:
        """Whether `order` names every dimension once, as it must."""
        return bool((np.sort(self.order) == np.arange(self.dim)).all())

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Turn (T, D) float32 vectors into the rotated basis."""
        return self._multiply(_reordered(vectors, self.order), self.blocks.transpose(0, 2, 1))

    def undo(self, rotated: np.ndarray) -> np.ndarray:
        """Turn (T, D) float32 vectors back from the rotated basis."""
        return _reordered(self._multiply(rotated, self.blocks), np.argsort(self.order))

    def matrix(self) -> np.ndarray:
        """Return R, (D, D) float32: rotated = R @ x. A reader folds it into its own weights."""
        return np.ascontiguousarray(self.apply(np.eye(self.dim, dtype=np.float32)).T)

    def _multiply(self, vectors: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """Multiply each block of the rows from the right."""
        product = np.empty_like(vectors)
        width = blocks.shape[1]
        for start, block in zip(range(0, self.dim, width), blocks, strict=True):
            columns = slice(start, start + width)
            product[:, columns] = vectors[:, columns] @ block
        return product


def _reordered(vectors: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the columns in another order; `take` is many times faster than indexing here."""
    if (order == np.arange(len(order))).all():
        return vectors
    taken: np.ndarray = np.take(vectors, order, axis=1)
    return taken
