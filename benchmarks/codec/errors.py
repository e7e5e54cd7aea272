"""What codes lose: the gates of encoding, and the losses beside its speeds."""

from __future__ import annotations

import numpy as np

from memstore.codec import ProductCodec
from memstore.codec.kernels import reference

_ROUNDING = 4e-6  # of |x|^2 and the squared error: scores of 16 products in float32


def squared_errors(vectors: np.ndarray, codec: ProductCodec, codes: np.ndarray) -> np.ndarray:
    """Return (N, M) float64, squared distances from the centroids that codes name.

    Args:
        vectors: (N, D) float32.
        codec: without stages.
        codes: (N, M) unsigned integers below K.
    """
    decoded = reference.gather(codes, codec.codebook).astype(np.float64)
    parts = (vectors - decoded).reshape(len(vectors), codec.num_subspaces, -1)
    squared: np.ndarray = np.square(parts).sum(axis=2)
    return squared


def is_nearest(vectors: np.ndarray, codec: ProductCodec, codes: np.ndarray) -> bool:
    """Whether (N, M) codes are those of a search in float64, or as near within rounding."""
    found = squared_errors(vectors, codec, codes)
    best = squared_errors(vectors, codec, reference.assign(vectors, codec.codebook))
    lengths = np.square(vectors, dtype=np.float64).reshape(*found.shape, -1).sum(axis=2)
    return bool((found - best <= _ROUNDING * (lengths + best)).all())


def loss(vectors: np.ndarray, codec: ProductCodec, codes: np.ndarray) -> float:
    """Return the squared error of (N, M) codes over that of exact search."""
    exact = squared_errors(vectors, codec, codec.encode(vectors)).sum()
    return float(squared_errors(vectors, codec, codes).sum() / exact)
