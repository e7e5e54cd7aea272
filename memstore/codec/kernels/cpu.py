"""Nearest-centroid search on all cores: compiled at the first call, safe from many threads.

Does not: check shapes and dtypes; `ProductCodec` has done so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from memstore.codec.kernels import probed, screened
from memstore.codec.kernels.compiler import read_only
from memstore.codec.kernels.nearest import SPAN, TILE, nearest
from memstore.codec.kernels.threads import run_chunks

_MIN_CHUNK_FLOPS = 10_000_000  # about 0.1 ms: less is not worth waking another thread for

_MIN_PROBED = 2048  # centroids; below, the exact search is as fast


def searcher(codebook: np.ndarray, search: str) -> Callable[[np.ndarray, np.ndarray], bool]:
    """Lay a codebook out for the fastest kernel that does what `search` says.

    Args:
        codebook: (M, K, width) float32 or bfloat16; kept, if the kernel reads it.
        search: "exact" or "fast"; a small codebook is searched exactly all the same.

    Returns:
        A function of vectors (N, D) float32 and codes (N, at least M) uint8 or uint16, both
        C-contiguous: it fills the first M columns, and returns False if a value was not finite.
    """
    if search == "fast" and codebook.shape[1] >= _MIN_PROBED:
        probed_codebook = probed.prepare(codebook)
        return lambda vectors, codes: probed.assign(vectors, probed_codebook, codes)
    if screened.is_suited(codebook.shape):
        screen = screened.prepare(codebook)
        return lambda vectors, codes: screened.assign(vectors, screen, codes)
    tiles = prepare(codebook)
    return lambda vectors, codes: assign(vectors, tiles, codes)


def prepare(codebook: np.ndarray) -> np.ndarray:
    """Lay a codebook out for `assign`.

    Args:
        codebook: (M, K, width) float32 or bfloat16.

    Returns:
        (M, ceil(K / TILE), 1 + width, TILE) float32: per tile -|c|^2/2, then the centroids
        transposed. Lanes past K score minus infinity. Size: 4 (1 + 1/width) bytes per codebook
        value, twice a bfloat16 codebook.
    """
    num_subspaces, codebook_size, width = codebook.shape
    num_tiles = -(-codebook_size // TILE)
    tiles = np.empty((num_subspaces, num_tiles, 1 + width, TILE), np.float32)
    padded = np.zeros((num_tiles * TILE, 1 + width), np.float32)
    padded[codebook_size:, 0] = -np.inf
    for m in range(num_subspaces):
        centroids = codebook[m].astype(np.float32)
        padded[:codebook_size, 1:] = centroids
        padded[:codebook_size, 0] = -0.5 * np.square(centroids, dtype=np.float64).sum(axis=1)
        tiles[m] = padded.reshape(num_tiles, TILE, 1 + width).transpose(0, 2, 1)
    return tiles


def assign(vectors: np.ndarray, tiles: np.ndarray, codes: np.ndarray) -> bool:
    """Find the nearest centroid of every subvector, by float32 scores.

    Args:
        vectors: (N, D) float32, C-contiguous.
        tiles: from `prepare`.
        codes: (N, at least M) uint8 or uint16, C-contiguous; the first M columns are filled.

    Returns:
        False if a value was not finite; then `codes` is not to be used.

    Cost: 2 N K D floating-point operations; scratch a thread: 192 subvectors and a few KB,
    whatever N and K.
    """
    num_subspaces, num_tiles, depth, _ = tiles.shape
    rows = read_only(vectors.reshape(len(vectors), num_subspaces, depth - 1))
    tiles = read_only(tiles)
    num_items = num_subspaces * -(-len(vectors) // SPAN)
    item_flops = 2 * min(len(vectors), SPAN) * num_tiles * TILE * depth
    finite = run_chunks(
        lambda start, stop: nearest(rows, tiles, codes, start, stop),
        num_items,
        min_items=1 + _MIN_CHUNK_FLOPS // max(item_flops, 1),
    )
    return all(finite)
