"""How codebooks are made: k-means in each subspace, and the rule that chooses a layout.

The sample is read a slab of subspaces at a time, so that one larger than memory can be trained on.

Differs: MEMORY-VQ trains its codebook together with the reader; these are fitted to stored memories
afterwards.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from memstore.errors import ConfigError, ShapeError

logger = logging.getLogger(__name__)

# Below this, faiss's rule says, held-out error rises noticeably above the training error.
POINTS_PER_CENTROID = 39
_SLAB_BYTES = 1 << 30  # of float32 columns; training takes about as much again
_ROWS = 1 << 15  # that are cast at a time
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
    subspaces: range | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Run k-means in every subspace, on all vectors.

    Args:
        vectors: (N, D) float16, bfloat16 or float32, finite; may be a memory map: the columns of
            as many subspaces as fit in 1 GiB are held at a time, of one at least.
        num_subspaces: M, a divisor of D.
        codebook_size: K, at most N and at most 65,536.
        seed: the same seed, vectors and machine give the same codebook, whatever the number of
            threads.
        subspaces: train these alone, such as range(8, 16), for a job that spreads them; they come
            out as they would among all.
        progress: called with the number of subspaces done and their total, first with 0; by any
            thread, one at a time.

    Returns:
        (M, K, D/M) float32, finite; (len(subspaces), K, D/M) if they were given.

    Raises:
        ShapeError: if the vectors are not such an array, are fewer than K, or hold NaN or infinity.
        ConfigError: if M, K, the seed or the subspaces are not such.
    """
    check_training(vectors, num_subspaces, codebook_size, seed)
    wanted = range(num_subspaces) if subspaces is None else subspaces
    if not wanted or wanted.step != 1 or not 0 <= wanted.start < wanted.stop <= num_subspaces:
        raise ConfigError(
            f"subspaces: got {wanted}, wanted neighbours among the {num_subspaces} subspaces"
        )
    num_vectors, dim = vectors.shape
    if num_vectors < POINTS_PER_CENTROID * codebook_size:
        logger.warning(
            "%d training vectors are few for %d centroids a subspace (the rule: at least %d a "
            "centroid, %d); expect a higher error on other vectors",
            num_vectors, codebook_size, POINTS_PER_CENTROID, POINTS_PER_CENTROID * codebook_size,
        )  # fmt: skip
    width = dim // num_subspaces
    codebook = np.empty((len(wanted), codebook_size, width), np.float32)
    step = max(1, _SLAB_BYTES // (4 * num_vectors * width))
    report = _Report(progress, len(wanted))
    for start in range(0, len(wanted), step):
        slab = _read_slab(vectors, wanted[start : start + step], width)
        _cluster(slab, codebook[start : start + step], seed, report)
    return codebook


class _Report:
    """Counts the subspaces that are done, over all threads."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._num_done = -1
        self._lock = threading.Lock()
        self.advance()

    def advance(self) -> None:
        with self._lock:
            self._num_done += 1
            if self._progress is not None:
                self._progress(self._num_done, self._total)


def _read_slab(vectors: np.ndarray, subspaces: range, width: int) -> np.ndarray:
    """Return (len(subspaces), N, width) float32, each subspace contiguous."""
    slab = np.empty((len(subspaces), len(vectors), width), np.float32)
    for start in range(0, len(vectors), _ROWS):
        rows = vectors[start : start + _ROWS, subspaces.start * width : subspaces.stop * width]
        block = rows.astype(np.float32)
        if not np.isfinite(block).all():
            row = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise ShapeError(f"training vectors: row {row} holds NaN or infinity", row=row)
        slab[:, start : start + _ROWS] = block.reshape(-1, len(subspaces), width).swapaxes(0, 1)
    return slab


def _cluster(slab: np.ndarray, codebook: np.ndarray, seed: int, report: _Report) -> None:
    """Fill `codebook`, a subspace a thread: parts of k-means run on one."""
    from memstore.codec.clustering import kmeans
    from memstore.codec.kernels.threads import run_chunks

    def train(start: int, stop: int) -> int:
        for m in range(start, stop):
            codebook[m] = kmeans(slab[m], codebook.shape[1], seed=seed)
            report.advance()
        return 0

    run_chunks(train, len(slab), min_items=1)


def check_training(vectors: Any, num_subspaces: int, codebook_size: int, seed: int) -> None:
    """Refuse what `train_codebook` cannot be given; see there."""
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
