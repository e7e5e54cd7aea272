"""The probed search, against the reference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from memstore.codec.kernels import probed, reference, threads
from memstore.codec.kernels.cutting import bounds, cut

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
ALL = 1 << 16  # probes: more than there are tiles


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def search(
    vectors: np.ndarray, codebook: np.ndarray, num_probes: int = ALL, rounds: int = 4
) -> np.ndarray:
    """Return (N, M) codes."""
    codes = np.full((len(vectors), len(codebook)), 0xFFFF, np.uint16)
    prepared = probed.lay_out(codebook, rounds=rounds)
    assert probed.assign(vectors, prepared, codes, num_probes=num_probes)
    return codes


def squared_error(vectors: np.ndarray, codebook: np.ndarray, codes: np.ndarray) -> float:
    """Return the mean over values."""
    decoded = reference.gather(codes, codebook).astype(np.float64)
    return float(np.square(vectors - decoded).mean())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_subspaces", "codebook_size", "width"),
    [(1, 2, 1), (2, 63, 3), (2, 64, 4), (1, 65, 16), (3, 300, 5), (1, 5000, 16), (1, 20_000, 2)],
)
def test_all_tiles_give_the_nearest_centroid(
    num_subspaces: int, codebook_size: int, width: int, dtype: str
) -> None:
    """With every tile looked into, only rounding tells the codes from the reference's."""
    codebook = gaussian(1, num_subspaces, codebook_size, width).astype(DTYPES[dtype])
    vectors = gaussian(2, 100, num_subspaces * width)

    codes = search(vectors, codebook)

    wanted = reference.assign(vectors, codebook)
    assert (codes == wanted).mean() > 0.98
    # Steps are about 1/1,600 long.
    difference = squared_error(vectors, codebook, codes) - squared_error(vectors, codebook, wanted)
    assert 0 <= difference < 1e-5


@pytest.mark.parametrize("num_vectors", [1, 5, 6, 7, 3071, 3073])
def test_a_vector_is_encoded_alike_in_any_batch(num_vectors: int) -> None:
    """Blocks and spans do not show."""
    codebook = gaussian(3, 2, 2000, 4)
    vectors = gaussian(4, 3073, 8)

    codes = search(vectors[:num_vectors], codebook, num_probes=2)

    assert np.array_equal(codes, search(vectors, codebook, num_probes=2)[:num_vectors])


def test_threads_do_not_change_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One core and four give the same."""
    codebook = gaussian(5, 8, 1000, 4)
    vectors = gaussian(6, 500, 32)
    results = []

    for num_threads in (1, 4):
        monkeypatch.setattr(threads, "num_cores", lambda count=num_threads: count)
        results.append(search(vectors, codebook, num_probes=3))

    assert np.array_equal(results[0], results[1])


def test_the_loss_falls_with_probes() -> None:
    """Half of the tiles lose less than 1 %, and one tile loses some."""
    codebook, vectors = gaussian(7, 1, 4096, 8), gaussian(8, 2000, 8)
    least = squared_error(vectors, codebook, reference.assign(vectors, codebook))

    losses = [
        squared_error(vectors, codebook, search(vectors, codebook, num_probes)) / least - 1
        for num_probes in (1, 4, 16, 32)
    ]

    assert losses[0] > losses[1] > losses[2] > losses[3]
    assert losses[3] < 0.01


def test_clusters_of_centroids_are_found_with_few_probes() -> None:
    """Where points lie in lumps, a few tiles hold all near centroids."""
    lumps = 10 * gaussian(9, 64, 8)
    codebook = (np.repeat(lumps, 64, axis=0) + gaussian(10, 4096, 8))[None]
    vectors = np.repeat(lumps, 20, axis=0) + gaussian(11, 1280, 8)
    least = squared_error(vectors, codebook, reference.assign(vectors, codebook))

    codes = search(vectors, codebook, num_probes=4, rounds=40)

    assert squared_error(vectors, codebook, codes) < 1.01 * least


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_the_number_of_probes_is_chosen_for_a_loss_of_a_hundredth(correlation: float) -> None:
    """Fewer where the points have fewer directions, and less than 1 % is lost either way."""
    mixing = correlation ** np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
    codebook = (gaussian(22, 1, 4096, 8) @ mixing).astype(np.float32)
    vectors = (gaussian(23, 2000, 8) @ mixing).astype(np.float32)
    prepared = probed.prepare(codebook)
    codes = np.empty((2000, 1), np.uint16)

    probed.assign(vectors, prepared, codes)

    least = squared_error(vectors, codebook, reference.assign(vectors, codebook))
    assert 2 <= prepared.num_probes[0] <= 24
    assert squared_error(vectors, codebook, codes) < 1.01 * least


def test_of_equal_centroids_the_lowest_code_is_taken() -> None:
    """Wherever the tiles put them."""
    distinct = gaussian(12, 1, 50, 4)
    codebook = np.tile(distinct, (1, 20, 1))

    codes = search(distinct[0], codebook)

    assert codes[:, 0].tolist() == list(range(50))


def test_centroids_that_are_all_equal_are_searched() -> None:
    """Without a range there is no step, and every tile ranks the same."""
    prepared = probed.prepare(np.ones((1, 3000, 4), np.float32))
    codes = np.full((10, 1), 0xFFFF, np.uint16)

    probed.assign(gaussian(13, 10, 4), prepared, codes)

    assert codes.max() < 3000


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_the_values_does_not_matter(scale: float) -> None:
    """Steps are chosen by the codebook's range."""
    codebook, vectors = gaussian(14, 1, 500, 4), gaussian(15, 50, 4)

    prepared = probed.prepare(codebook * np.float32(scale))
    codes = np.empty((50, 1), np.uint16)
    probed.assign(vectors * np.float32(scale), prepared, codes, num_probes=ALL)

    assert (codes == search(vectors, codebook)).mean() > 0.95
    assert prepared.num_probes == probed.prepare(codebook).num_probes


def test_a_vector_far_outside_finds_the_side_that_it_is_on() -> None:
    """Nothing wraps around."""
    codebook = np.array([[[-1.0], [0.0], [1.0]]], np.float32)
    vectors = np.array([[-3e38], [3e38], [1e10], [0.1]], np.float32)

    assert search(vectors, codebook)[:, 0].tolist() == [0, 2, 2, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_reported(value: float) -> None:
    """Whichever vector and subspace it is in."""
    vectors = gaussian(16, 20, 8)
    vectors[13, 5] = value
    prepared = probed.prepare(gaussian(17, 2, 100, 4))

    assert not probed.assign(vectors, prepared, np.empty((20, 2), np.uint8), num_probes=1)


def test_columns_past_the_subspaces_are_left_alone() -> None:
    """A record's pad byte is not this kernel's."""
    prepared = probed.prepare(gaussian(18, 3, 100, 4))
    codes = np.full((10, 4), 77, np.uint8)

    probed.assign(gaussian(19, 10, 12), prepared, codes)

    assert (codes[:, 3] == 77).all()


@pytest.mark.parametrize("num_points", [1, 64, 65, 1000, 4096])
def test_tiles_are_even_and_hold_every_point_once(num_points: int) -> None:
    """Sizes differ by one at most."""
    points = gaussian(20, num_points, 3)

    order, starts = cut(points, 64, rounds=3), bounds(num_points, 64)

    assert np.array_equal(np.sort(order), np.arange(num_points))
    assert starts[0] == 0
    assert starts[-1] == num_points
    assert np.diff(starts).max() <= min(64, np.diff(starts).min() + 1)


def test_settling_makes_tiles_rounder() -> None:
    """The spread within tiles falls, and settling goes on from an order."""
    points = gaussian(21, 4096, 8)

    def spread(order: np.ndarray) -> float:
        return float(points[order].reshape(64, 64, 8).var(axis=1).sum())

    halved = cut(points, 64, rounds=0)
    settled = cut(points, 64, rounds=10, order=halved)

    assert spread(np.arange(4096)) > 1.5 * spread(halved)
    assert spread(settled) < 0.98 * spread(halved)
    assert spread(cut(points, 64, rounds=10, order=settled)) < spread(settled)
