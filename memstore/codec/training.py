"""How codebooks are made: k-means in each subspace, and the rule that chooses a layout.

Differs: MEMORY-VQ trains its codebook together with the reader; these are fitted to stored memories
afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from memstore.errors import ConfigError, ShapeError

logger = logging.getLogger(__name__)

# Below this, faiss's rule says, held-out error rises noticeably above the training error.
POINTS_PER_CENTROID = 39
_NUM_ITERATIONS = 12
_DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a vector is cut: M subspaces of K centroids each."""

    num_subspaces: int
    codebook_size: int


def choose_layout(dim: int, num_vectors: int) -> Layout:
    """Choose the layout that `auto` stands for: one bit a dimension, a sixteenth of bfloat16.

    With enough training vectors (39 for each of 65,536 centroids) and 16 | D, subspaces are 16 wide
    with 65,536 centroids, which has the least error. Otherwise they are 8 wide with 256, at the
    same bytes, or with the largest power of two that the sample allows. 4,096 centroids are never
    chosen: a record holds codes of 8 or 16 bits, so their 12 bits would take 16 and come out worse
    than two codes of 8.

    Args:
        dim: D.
        num_vectors: size of the training sample.

    Raises:
        ConfigError: if no width from 2 to 8 divides D.
    """
    if dim % 16 == 0 and num_vectors >= POINTS_PER_CENTROID * 65_536:
        return Layout(dim // 16, 65_536)
    width = next((width for width in range(8, 1, -1) if dim % width == 0), None)
    if width is None:
        raise ConfigError(
            f"dim: no subspace width from 2 to 8 divides {dim}; choose num_subspaces by hand"
        )
    codebook_size = 256
    while codebook_size > 2 and num_vectors < POINTS_PER_CENTROID * codebook_size:
        codebook_size //= 2
    if codebook_size < 256:
        logger.warning(
            "%d training vectors allow %d centroids a subspace instead of 256 (the rule: at least "
            "%d vectors a centroid); train on more vectors for less error",
            num_vectors, codebook_size, POINTS_PER_CENTROID,
        )  # fmt: skip
    return Layout(dim // width, codebook_size)


def train_codebook(
    vectors: np.ndarray,
    num_subspaces: int,
    codebook_size: int,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Run k-means in every subspace, on all vectors.

    Args:
        vectors: (N, D) float16, bfloat16 or float32, finite; may be a memory map: one subspace is
            copied at a time.
        num_subspaces: M, a divisor of D.
        codebook_size: K, at most N and at most 65,536.
        seed: the same seed, vectors and machine give the same codebook.
        progress: called with the number of subspaces done and M, first with 0.

    Returns:
        (M, K, D/M) float32, finite.

    Raises:
        ShapeError: if the vectors are not such an array, are fewer than K, or hold NaN or infinity.
        ConfigError: if M, K or the seed is not such.
    """
    _check(vectors, num_subspaces, codebook_size, seed)
    num_vectors, dim = vectors.shape
    if num_vectors < POINTS_PER_CENTROID * codebook_size:
        logger.warning(
            "%d training vectors are few for %d centroids a subspace (the rule: at least %d a "
            "centroid, %d); expect a higher error on other vectors",
            num_vectors, codebook_size, POINTS_PER_CENTROID, POINTS_PER_CENTROID * codebook_size,
        )  # fmt: skip
    width = dim // num_subspaces
    codebook = np.empty((num_subspaces, codebook_size, width), np.float32)
    for m in range(num_subspaces):
        if progress is not None:
            progress(m, num_subspaces)
        points = np.ascontiguousarray(vectors[:, m * width : (m + 1) * width], dtype=np.float32)
        codebook[m] = _cluster(points, codebook_size, seed)
    if progress is not None:
        progress(num_subspaces, num_subspaces)
    return codebook


def _cluster(points: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
    """Return (K, width) float32 centroids; a cluster left empty takes half of a large one."""
    import faiss

    bad_rows = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad_rows):
        raise ShapeError(
            f"training vectors: row {bad_rows[0]} holds NaN or infinity", row=bad_rows[0]
        )
    kmeans = faiss.Kmeans(
        points.shape[1],
        num_clusters,
        niter=_NUM_ITERATIONS,
        seed=seed,
        # faiss would subsample large inputs and print a warning about small ones; ours is logged.
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    kmeans.train(points)
    return np.asarray(kmeans.centroids)


def _check(vectors: Any, num_subspaces: int, codebook_size: int, seed: int) -> None:
    if (
        not isinstance(vectors, np.ndarray)
        or vectors.ndim != 2
        or vectors.dtype.name not in _DTYPES
    ):
        raise ShapeError(f"training vectors: wanted an array (N, D) of {', '.join(_DTYPES)}")
    num_vectors, dim = vectors.shape
    if num_subspaces < 1 or dim < 1 or dim % num_subspaces:
        raise ConfigError(
            f"num_subspaces: got {num_subspaces}, wanted a divisor of the dimension {dim}"
        )
    if not 2 <= codebook_size <= 65_536:
        raise ConfigError(f"codebook_size: got {codebook_size}, wanted 2 to 65,536")
    if not 0 <= seed < 2**31:
        raise ConfigError(f"seed: got {seed}, wanted 0 to {2**31 - 1}")
    if num_vectors < codebook_size:
        raise ShapeError(
            f"training vectors: got {num_vectors}, wanted at least {codebook_size}, one a centroid "
            f"({POINTS_PER_CENTROID * codebook_size} for a good codebook); lower codebook_size or "
            "add vectors"
        )
