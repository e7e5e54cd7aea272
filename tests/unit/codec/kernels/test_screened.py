"""The search in two passes finds what an exhaustive search in float64 finds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memstore.codec.kernels import int8, reference, screened

pytestmark = pytest.mark.skipif(
    not int8.is_supported(), reason="needs a processor with VNNI instructions"
)

SHAPES = [  # (M, K, width), around the sizes of steps, tiles and panels
    (3, 300, 16),
    (1, 1, 16),
    (2, 1023, 16),
    (1, 1025, 16),
    (2, 5000, 16),
    (5, 700, 4),
    (3, 513, 8),
    (2, 257, 32),
    (4, 300, 3),
    (2, 300, 7),
    (3, 300, 1),
    (1, 100, 64),
]


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def found(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Return the codes of the search under test."""
    codes = np.full((len(vectors), len(codebook)), 0xFFFF, np.uint16)
    assert screened.assign(vectors, screened.prepare(codebook), codes)
    return codes


def nearest(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Return the codes by differences in float64, which do not cancel far from the origin."""
    num_subspaces, _, width = codebook.shape
    rows = vectors.astype(np.float64).reshape(len(vectors), num_subspaces, 1, width)
    distances = np.square(rows - codebook.astype(np.float64)).sum(axis=3)
    codes: np.ndarray = distances.argmin(axis=2).astype(np.uint16)
    return codes


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_equal_the_reference(shape: tuple[int, int, int], dtype: type) -> None:
    """Whatever the size, width and dtype of the codebook."""
    codebook: np.ndarray = gaussian(0, *shape).astype(dtype)
    vectors = gaussian(1, 131, shape[0] * shape[2])

    codes = found(vectors, codebook)

    np.testing.assert_array_equal(codes, reference.assign(vectors, codebook))


@pytest.mark.parametrize("magnitude", [1e-42, 1e-30, 1e-3, 1e5, 1e30])
def test_magnitude_does_not_matter(magnitude: float) -> None:
    """From denormal numbers to near the end of float32."""
    codebook = gaussian(2, 2, 900, 8) * np.float32(magnitude)
    vectors = gaussian(3, 50, 16) * np.float32(magnitude)

    np.testing.assert_array_equal(found(vectors, codebook), nearest(vectors, codebook))


def test_vectors_far_outside_of_the_codebook() -> None:
    """They are clipped on the way to int8, which only makes more centroids be looked at."""
    codebook = gaussian(4, 2, 900, 8)
    factors = np.geomspace(1, 1e10, 60, dtype=np.float32)[:, None]
    vectors = gaussian(5, 60, 16) * factors

    np.testing.assert_array_equal(found(vectors, codebook), nearest(vectors, codebook))


def test_vectors_far_outside_in_one_coordinate() -> None:
    """A guess from clipped coordinates is far off, and so are the tiles that it makes look near."""
    codebook = gaussian(6, 1, 3000, 4)
    codebook[0, ::50, 0] *= 40  # beyond the range that is not clipped
    vectors = gaussian(7, 300, 4)
    vectors[:, 0] *= 40

    np.testing.assert_array_equal(found(vectors, codebook), nearest(vectors, codebook))


@pytest.mark.parametrize("outlier", [1e3, 1e30, -3e38])
def test_one_enormous_centroid(outlier: float) -> None:
    """It neither hides the others nor is hidden by them."""
    codebook = gaussian(8, 1, 3000, 4)
    codebook[0, 17] = outlier
    vectors = gaussian(9, 40, 4)
    vectors[3] = outlier

    codes = found(vectors, codebook)

    np.testing.assert_array_equal(codes, nearest(vectors, codebook))
    assert codes[3, 0] == 17


def test_an_enormous_centroid_does_not_coarsen_the_screen() -> None:
    """The scale stays that of the other centroids."""
    codebook = gaussian(10, 1, 3000, 4)
    plain = screened.prepare(codebook.copy()).scale[0]
    codebook[0, 17] = 1e30

    assert screened.prepare(codebook).scale[0] < 1.1 * plain


@pytest.mark.parametrize("value", [0.0, 1e-30, 7.5, 1e30])
def test_all_centroids_the_same(value: float) -> None:
    """A subspace without extent has one code, the first, however near or far the vectors."""
    codebook = np.full((2, 500, 4), value, np.float32)
    vectors = np.concatenate([gaussian(11, 20, 8), np.full((2, 8), value, np.float32)])

    assert not found(vectors, codebook).any()


def test_one_centroid_differs_from_all_others() -> None:
    """The range that is not clipped is empty then, and the whole range taken."""
    codebook = np.zeros((1, 3000, 4), np.float32)
    codebook[0, 1234] = 1.0
    vectors = np.asarray([[1, 1, 1, 1], [0, 0, 0, 0], [0.6, 0.6, 0.4, 0.5]], np.float32)

    np.testing.assert_array_equal(found(vectors, codebook)[:, 0], [1234, 0, 1234])


def test_copies_of_centroids_go_to_the_lowest_index() -> None:
    """Every centroid is there four times, in different tiles."""
    once = gaussian(12, 2, 800, 8)
    codebook = np.concatenate([once] * 4, axis=1)

    codes = found(np.ascontiguousarray(once.transpose(1, 0, 2)).reshape(800, 16), codebook)

    np.testing.assert_array_equal(codes, np.arange(800)[:, None].repeat(2, axis=1))


def test_zeros_of_either_sign_are_equal() -> None:
    """Centroids that are equal but for their bits are a tie."""
    codebook = np.ones((1, 300, 4), np.float32)
    codebook[0, 5], codebook[0, 200] = -0.0, 0.0

    assert found(np.zeros((3, 4), np.float32), codebook).tolist() == [[5]] * 3


def test_centroids_closer_together_than_int8_can_tell() -> None:
    """Thousands that round to the same integers are all compared."""
    codebook = gaussian(13, 1, 4000, 8)
    codebook[0, 1000:] = codebook[0, 0] + gaussian(14, 3000, 8) * 1e-4
    vectors = codebook[0, ::9] + gaussian(15, 445, 8) * np.float32(1e-5)

    np.testing.assert_array_equal(found(vectors, codebook), nearest(vectors, codebook))


def test_a_codebook_far_from_the_origin() -> None:
    """The scale is that of the differences between centroids."""
    codebook = gaussian(16, 1, 2000, 8) + np.float32(1e4)
    vectors = gaussian(17, 50, 8) + np.float32(1e4)

    np.testing.assert_array_equal(found(vectors, codebook), nearest(vectors, codebook))


@settings(deadline=None, max_examples=60)
@given(
    width=st.sampled_from([3, 4, 8]),
    size=st.integers(1, 2100),
    levels=st.integers(1, 4),
    stretch=st.sampled_from([1, 50, 10_000]),
    seed=st.integers(0, 1 << 30),
)
def test_ties_go_to_the_lowest_index(
    width: int, size: int, levels: int, stretch: int, seed: int
) -> None:
    """Small integers have many equal distances; one coordinate may be much longer than others."""
    rng = np.random.default_rng(seed)
    codebook = rng.integers(-levels, levels + 1, (2, size, width)).astype(np.float32)
    vectors = rng.integers(-levels - 1, levels + 2, (30, 2, width)).astype(np.float32)
    codebook[..., 0] *= stretch
    vectors[..., 0] *= stretch
    flat = vectors.reshape(30, 2 * width)

    np.testing.assert_array_equal(found(flat, codebook), nearest(flat, codebook))


def test_a_code_does_not_depend_on_the_batch() -> None:
    """One by one, or all at once and over several spans."""
    codebook = gaussian(18, 2, 600, 8)
    vectors = gaussian(19, 1700, 16)

    together = found(vectors, codebook)
    pieces = [found(vectors[a:b], codebook) for a, b in [(0, 1), (1, 6), (6, 800), (800, 1700)]]

    np.testing.assert_array_equal(together, np.concatenate(pieces))


def test_codes_of_one_byte_are_filled_beside_what_is_there() -> None:
    """Columns past M are left alone."""
    codebook = gaussian(20, 3, 256, 4)
    vectors = gaussian(21, 40, 12)
    codes = np.full((40, 4), 0xAB, np.uint8)

    assert screened.assign(vectors, screened.prepare(codebook), codes)

    np.testing.assert_array_equal(codes[:, :3], reference.assign(vectors, codebook))
    assert (codes[:, 3] == 0xAB).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 23, 999])
def test_a_value_that_is_not_finite_is_refused(row: int, value: float) -> None:
    """Wherever it stands."""
    codebook = gaussian(22, 2, 300, 4)
    vectors = gaussian(23, 1000, 8)
    vectors[row, 5] = value
    codes = np.zeros((1000, 2), np.uint16)

    assert not screened.assign(vectors, screened.prepare(codebook), codes)


def test_several_threads_search_at_once() -> None:
    """They share a screen and nothing else."""
    codebook = gaussian(24, 4, 2000, 8)
    screen = screened.prepare(codebook)
    batches = [gaussian(25 + i, 300, 32) for i in range(6)]
    results = [np.full((300, 4), 0xFFFF, np.uint16) for _ in batches]

    with ThreadPoolExecutor(4) as pool:
        finite = list(pool.map(screened.assign, batches, [screen] * 6, results))

    assert all(finite)
    for vectors, codes in zip(batches, results, strict=True):
        np.testing.assert_array_equal(codes, reference.assign(vectors, codebook))


def test_wide_or_small_codebooks_are_not_suited() -> None:
    """They are searched in float32."""
    assert screened.is_suited((2, 65_536, 16))
    assert not screened.is_suited((2, 65_536, screened.MAX_WIDTH + 1))
    assert not screened.is_suited((2, screened.MIN_SIZE - 1, 16))
    assert not screened.is_suited((2, screened.MIN_SIZE, 4))
