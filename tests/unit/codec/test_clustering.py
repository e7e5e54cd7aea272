"""k-means."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.codec.clustering import _iterate, kmeans
from memstore.codec.kernels import reference, threads
from memstore.errors import ShapeError


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def distortion(points: np.ndarray, centroids: np.ndarray) -> float:
    """Return the mean squared distance from the nearest centroid."""
    codes = reference.assign(points, centroids[None])[:, 0]
    return float(np.square(points - centroids[codes]).sum(axis=1).mean())


def plain_kmeans(points: np.ndarray, num_clusters: int, num_iterations: int) -> np.ndarray:
    """k-means++ and Lloyd's iterations, by the book."""
    rng = np.random.default_rng(0)
    seeds = [int(rng.integers(len(points)))]
    nearest = np.full(len(points), np.inf)
    while len(seeds) < num_clusters:
        nearest = np.minimum(nearest, np.square(points - points[seeds[-1]]).sum(axis=1))
        seeds.append(int(rng.choice(len(points), p=nearest / nearest.sum())))
    centroids = points[seeds]
    for _ in range(num_iterations):
        codes = reference.assign(points, centroids[None])[:, 0]
        for k in np.unique(codes):
            centroids[k] = points[codes == k].mean(axis=0)
    return centroids


@pytest.mark.parametrize(
    ("num_points", "num_clusters", "width"), [(4000, 16, 2), (6000, 128, 8), (20_000, 1500, 4)]
)
def test_other_points_are_as_near_as_with_plain_kmeans(
    num_points: int, num_clusters: int, width: int
) -> None:
    """The cheaper seeding, the longer strides and the probing cost nothing that can be seen."""
    points, others = gaussian(0, num_points, width), gaussian(1, 5000, width)
    num_iterations = 8

    found = kmeans(points, num_clusters, seed=0, max_iterations=num_iterations, tolerance=0)

    plain = plain_kmeans(points, num_clusters, num_iterations)
    assert distortion(others, found) < 1.01 * distortion(others, plain)


@pytest.mark.parametrize("seed", range(5))
def test_lumps_that_are_far_apart_are_all_found(seed: int) -> None:
    """Seeding reaches each of them, whatever is drawn."""
    centres = 1000 * gaussian(2, 60, 4)
    points = np.repeat(centres, 50, axis=0) + gaussian(3, 3000, 4)

    found = kmeans(points, 100, seed=seed)

    assert distortion(points, found) < 5  # 4 is the variance of a lump


@pytest.mark.parametrize("num_clusters", [200, 1200])
def test_the_same_seed_gives_the_same_centroids_on_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, num_clusters: int
) -> None:
    """To the bit, by exhaustive search and by probing; another seed gives others."""
    points = gaussian(4, 12_000, 8)
    results = []

    for num_threads, seed in ((1, 5), (4, 5), (4, 6)):
        monkeypatch.setattr(threads, "num_cores", lambda count=num_threads: count)
        results.append(kmeans(points, num_clusters, seed=seed, max_iterations=3))

    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[1], results[2])


def test_clusters_without_points_take_parts_of_others() -> None:
    """Centroids that are nearest to no point come into use."""
    points = gaussian(5, 3000, 2)
    start = np.full((16, 2), 1000, np.float32)
    start[3] = 0

    found = _iterate(points, start, np.random.default_rng(0), 25, 0, None)

    assert distortion(points, found) < 1.1 * distortion(points, kmeans(points, 16, seed=0))


def test_as_many_clusters_as_points_keep_every_point() -> None:
    """Each is a centroid."""
    points = gaussian(6, 50, 3)

    assert distortion(points, kmeans(points, 50, seed=0)) < 0.05


def test_points_that_are_all_equal_make_equal_centroids() -> None:
    """Nothing is divided by zero."""
    found = kmeans(np.ones((100, 4), np.float32), 16, seed=0)

    assert np.array_equal(found, np.ones((16, 4), np.float32))


def test_one_cluster_is_the_mean() -> None:
    """K = 1."""
    points = gaussian(7, 1000, 3)

    assert np.allclose(kmeans(points, 1, seed=0), points.mean(axis=0), atol=1e-4)


def test_it_stops_when_an_iteration_gains_little() -> None:
    """The stopping rule, and the number of iterations as the bound; progress tells both."""
    points = gaussian(8, 20_000, 4)
    loose: list[tuple[int, float]] = []
    bounded: list[tuple[int, float]] = []

    kmeans(points, 64, seed=0, tolerance=0.02, progress=lambda *call: loose.append(call))
    kmeans(
        points, 64, seed=0, max_iterations=5, tolerance=0,
        progress=lambda *call: bounded.append(call),
    )  # fmt: skip

    assert [iteration for iteration, _ in bounded] == [1, 2, 3, 4, 5]
    assert bounded[: len(loose)] == loose
    assert 2 < len(loose) < 5
    before, last = loose[-2][1], loose[-1][1]
    assert before - last < 0.02 * before


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("num_clusters", [4, 1100])
def test_a_point_that_is_not_finite_is_refused_with_its_row(
    num_clusters: int, value: float
) -> None:
    """However it is searched."""
    points = gaussian(9, 3000, 4)
    points[2345, 1] = value

    with pytest.raises(ShapeError, match="row 2345 holds NaN or infinity"):
        kmeans(points, num_clusters, seed=0)
