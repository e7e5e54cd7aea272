"""What `assign` and `gather` mean, in plain NumPy: slow, and what other kernels must equal."""

from __future__ import annotations

import numpy as np

_ROWS = 256  # scores are held for this many vectors at a time


def assign(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Find the nearest centroid of every subvector, in float64.

    Args:
        vectors: (N, D) float32, finite.
        codebook: (M, K, D/M) float32 or bfloat16.

    Returns:
        (N, M) uint16 codes; of several centroids at the same distance, the lowest index.
    """
    num_subspaces, _, width = codebook.shape
    codes = np.empty((len(vectors), num_subspaces), np.uint16)
    for m in range(num_subspaces):
        centroids = codebook[m].astype(np.float64)
        half_norms = 0.5 * np.square(centroids).sum(axis=1)
        for start in range(0, len(vectors), _ROWS):
            block = vectors[start : start + _ROWS, m * width : (m + 1) * width].astype(np.float64)
            # argmax of x.c - |c|^2/2 is argmin of |x - c|^2; argmax takes the first of equals.
            codes[start : start + _ROWS, m] = (block @ centroids.T - half_norms).argmax(axis=1)
    return codes


def gather(codes: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Put the centroids that the codes name side by side.

    Args:
        codes: (N, M) unsigned integers below K.
        codebook: (M, K, D/M), any dtype.

    Returns:
        (N, D) array of the codebook's dtype, bit for bit.
    """
    num_subspaces, _, width = codebook.shape
    rows: np.ndarray = codebook[np.arange(num_subspaces), codes]  # (N, M, D/M)
    return rows.reshape(len(codes), num_subspaces * width)
