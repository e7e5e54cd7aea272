"""Training of one subspace against faiss's k-means, and the codebooks that other parts need."""

from __future__ import annotations

import time
from collections.abc import Callable

import faiss
import numpy as np

from benchmarks.codec.activations import Activations
from benchmarks.codec.parts import Part, once
from benchmarks.codec.sizes import Sizes
from benchmarks.harness import Cell, Figure, Table
from memstore.codec import ProductCodec, train_codebook
from memstore.codec.clustering import kmeans

_HELD_OUT = 16_384
_SUBSPACE = 0  # of the activations


def of_activations(activations: Activations, sizes: Sizes, seed: int) -> np.ndarray:
    """Return codebooks of activations, (m, K, D/M) float32, m at most M; trained to the end."""
    count = activations.vectors.shape[1] // sizes.width
    return train_codebook(
        activations.vectors,
        count,
        sizes.codebook_size,
        seed=seed,
        subspaces=range(min(count, sizes.num_subspaces)),
    )


def race(activations: Activations, sizes: Sizes, seed: int) -> tuple[Part, np.ndarray]:
    """Train one subspace of normals and one of activations, here and in faiss.

    Returns:
        What was found, and our (K, width) centroids of the normals.
    """
    rng = np.random.default_rng(seed)
    shape = sizes.training_points + _HELD_OUT, sizes.width
    normals = rng.standard_normal(shape, np.float32)
    columns = slice(_SUBSPACE * sizes.width, (_SUBSPACE + 1) * sizes.width)
    # Compiles, and is not timed.
    kmeans(normals[:8_192], 2_048, seed=seed, max_iterations=2)
    rows: list[tuple[Cell, ...]] = []
    speed_up: dict[str, Figure] = {}
    error: dict[str, Figure] = {}
    kept: dict[str, np.ndarray] = {}
    for data, points, held_out in (
        ("normals", normals[_HELD_OUT:], normals[:_HELD_OUT]),
        (
            "activations",
            activations.vectors[:, columns].astype(np.float32),
            activations.held_out[:, columns],
        ),
    ):
        ours_s, kept[data] = _timed(lambda: _ours(points, sizes, seed))  # noqa: B023
        faiss_s, theirs = _timed(lambda: _faiss(points, sizes, seed))  # noqa: B023
        speed_up[data] = once(faiss_s / ours_s)
        mses = [_held_out_mse(held_out, found) for found in (kept[data], theirs)]
        error[data] = once(mses[0] / mses[1])
        name = f"{data}, {len(points):,} points"
        rows += [
            (f"{name}: ours", once(ours_s, "s"), mses[0], speed_up[data], error[data]),
            (f"{name}: faiss Kmeans", once(faiss_s, "s"), mses[1], once(1), once(1)),
        ]
    title = f"Training of one subspace, K = {sizes.codebook_size:,}, "
    title += f"{sizes.training_iterations} iterations"
    columns_ = "by", "time", "held-out squared error", "times faiss", "error over faiss's"
    part = Part(
        gates=[],
        tables=[Table(title=title, columns=columns_, rows=rows)],
        targets={"training": speed_up, "training error": error},
        notes=[
            "Training was timed once: faiss takes minutes. Seeding is part of the time. One "
            "subspace leaves a core idle at times; of several, each is trained on a core.",
        ],
    )
    return part, kept["normals"]


def _ours(points: np.ndarray, sizes: Sizes, seed: int) -> np.ndarray:
    iterations = sizes.training_iterations
    return kmeans(points, sizes.codebook_size, seed=seed, max_iterations=iterations, tolerance=0)


def _faiss(points: np.ndarray, sizes: Sizes, seed: int) -> np.ndarray:
    training = faiss.Kmeans(
        points.shape[1],
        sizes.codebook_size,
        niter=sizes.training_iterations,
        seed=seed,
        max_points_per_centroid=len(points),  # all of them
        min_points_per_centroid=1,
    )
    training.train(points)
    centroids: np.ndarray = training.centroids
    return centroids


def _timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    found = function()
    return time.perf_counter() - began, found


def _held_out_mse(points: np.ndarray, centroids: np.ndarray) -> float:
    """Return the mean squared distance of a point from its nearest centroid."""
    codec = ProductCodec(centroids[None])
    decoded = codec.decode(codec.encode(points))
    return float(np.square(points - decoded, dtype=np.float64).sum(axis=1).mean())
