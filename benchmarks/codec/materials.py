"""Codecs and vectors to time: normals, and activations repeated until they fill the codec."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from benchmarks.codec.activations import Activations
from benchmarks.codec.sizes import Sizes
from memstore.codec import ProductCodec


@dataclass(frozen=True, slots=True)
class Material:
    """A codec and vectors like those that it is for.

    Attributes:
        data: what they are called in a table: "normals" or "activations".
        codec: of M subspaces, its codebook in bfloat16.
        vectors: (N, D) float32, N the largest batch; not those that the codec was trained on.
    """

    data: str
    codec: ProductCodec
    vectors: np.ndarray

    def centroids(self, count: int) -> np.ndarray:
        """Return the centroids of the first subspaces, (count, K, D/M) float32."""
        return np.ascontiguousarray(self.codec.codebook[:count], dtype=np.float32)

    def subvectors(self, count: int) -> np.ndarray:
        """Return the vectors' parts in the first subspaces, (count, N, D/M) float32."""
        width = self.codec.dim // self.codec.num_subspaces
        parts = self.vectors[:, : count * width].reshape(len(self.vectors), count, width)
        return np.ascontiguousarray(parts.swapaxes(0, 1))

    def part(self, count: int) -> tuple[np.ndarray, ProductCodec]:
        """Return the vectors in the first subspaces, (N, count * D/M), and a codec of those."""
        codec = ProductCodec(self.codec.codebook[:count])
        return np.ascontiguousarray(self.vectors[:, : codec.dim]), codec

    def uniform_records(self, sizes: Sizes) -> np.ndarray:
        """Return (T, M) codes, every centroid as likely as another: the worst for caches."""
        shape = sizes.decode_batches[-1], self.codec.num_subspaces
        return np.random.default_rng(1).integers(0, self.codec.codebook_size, shape, np.uint16)


def as_drawn(sizes: Sizes, seed: int) -> Material:
    """Return normals, and centroids that are normals too."""
    rng = np.random.default_rng(seed)
    shape = sizes.num_subspaces, sizes.codebook_size, sizes.width
    codebook = np.empty(shape, ml_dtypes.bfloat16)
    for centroids in codebook:
        centroids[...] = rng.standard_normal(centroids.shape, np.float32)
    return Material("normals", ProductCodec(codebook), _normals(sizes, rng))


def as_trained(centroids: np.ndarray, sizes: Sizes, seed: int) -> Material:
    """Return normals, and centroids that were trained on normals.

    Normals prefer no direction: turned at random, the (K, D/M) centroids of one subspace are as
    good for another.
    """
    rng = np.random.default_rng(seed + 1)
    codebook = np.empty((sizes.num_subspaces, *centroids.shape), ml_dtypes.bfloat16)
    for turned in codebook:
        turn = np.linalg.qr(rng.standard_normal((sizes.width, sizes.width)))[0].astype(np.float32)
        turned[...] = centroids[rng.permutation(len(centroids))] @ turn
    return Material("normals", ProductCodec(codebook), _normals(sizes, rng))


def of_activations(activations: Activations, trained: np.ndarray, sizes: Sizes) -> Material:
    """Return held-out activations, and codebooks (m, K, D/M) that were trained on others."""
    codebook = trained.astype(ml_dtypes.bfloat16)[_repeated(len(trained), sizes)]
    count = sizes.encode_batches[-1]
    parts = activations.held_out.reshape(len(activations.held_out), -1, sizes.width)
    vectors = _fill(parts[:, : len(trained)], sizes)[:count].reshape(count, -1)
    return Material("activations", ProductCodec(codebook), vectors)


def real_records(activations: Activations, trained: np.ndarray, sizes: Sizes) -> np.ndarray:
    """Return (T, M) uint16 codes whose histograms are those of activations."""
    codec = ProductCodec(trained.astype(ml_dtypes.bfloat16))
    sample = activations.vectors[: sizes.decode_batches[-1], : codec.dim]
    return np.ascontiguousarray(_fill(codec.encode(sample, search="fast"), sizes))


def _normals(sizes: Sizes, rng: np.random.Generator) -> np.ndarray:
    shape = sizes.encode_batches[-1], sizes.num_subspaces * sizes.width
    return rng.standard_normal(shape, np.float32)


def _repeated(count: int, sizes: Sizes) -> np.ndarray:
    """Return which of `count` subspaces stands at each of the M places."""
    return np.arange(sizes.num_subspaces) % count


def _fill(columns: np.ndarray, sizes: Sizes) -> np.ndarray:
    """Repeat (N, m, …) columns until there are M, from other rows each time."""
    repeats = -(-sizes.num_subspaces // columns.shape[1])
    step = len(columns) // repeats
    turned = [np.roll(columns, -i * step, axis=0) for i in range(repeats)]
    return np.concatenate(turned, axis=1)[:, : sizes.num_subspaces]
