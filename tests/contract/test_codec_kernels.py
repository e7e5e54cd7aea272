"""One contract for every implementation of the codec's two kernels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from memstore.codec.kernels import cpu, int8, reference, screened, threads
from memstore.codec.kernels import gather as gathering

BITS = {2: np.uint16, 4: np.uint32}


@dataclass(frozen=True)
class Kernels:
    """An implementation: vectors and codebook to codes, codes and codebook to vectors."""

    assign: Callable[[np.ndarray, np.ndarray], np.ndarray]
    gather: Callable[[np.ndarray, np.ndarray], np.ndarray]


def cpu_assign(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Run the CPU kernel on a buffer that is filled with poison."""
    codes = np.full((len(vectors), len(codebook)), 0xFFFF, np.uint16)
    assert cpu.assign(vectors, cpu.prepare(codebook), codes)
    return codes


def screened_assign(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Run the kernel for large codebooks, whatever the size of this one."""
    codes = np.full((len(vectors), len(codebook)), 0xFFFF, np.uint16)
    assert screened.assign(vectors, screened.prepare(codebook), codes)
    return codes


def cpu_gather(codes: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Run the CPU kernel on a buffer that is filled with poison."""
    out = np.full((len(codes), len(codebook) * codebook.shape[2]), 0xFF, codebook.dtype)
    bits = BITS[codebook.itemsize]
    assert gathering.gather(codes, codebook.view(bits), out.view(bits)) == -1
    return out


@pytest.fixture(params=["reference", "nearest", "screened"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """Each implementation in turn."""
    if request.param == "reference":
        return Kernels(reference.assign, reference.gather)
    if request.param == "nearest":
        return Kernels(cpu_assign, cpu_gather)
    if not int8.is_supported():
        pytest.skip("this CPU has no 8-bit dot products")
    return Kernels(screened_assign, cpu_gather)


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals, shifted: real memories are not centred."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32) + np.float32(0.5)


# Around the sizes at which the CPU kernel's blocks (6 and 192 vectors, 256 centroids) are not full.
SIZES = [
    (1, 1, 2, 1), (5, 3, 7, 5), (6, 2, 255, 8), (7, 2, 256, 8), (191, 2, 257, 3),
    (193, 3, 511, 16), (400, 1, 1000, 17), (64, 2, 65_536, 4),
]  # fmt: skip


@pytest.mark.parametrize(("num_vectors", "num_subspaces", "codebook_size", "width"), SIZES)
def test_assign_finds_the_nearest_centroid(
    kernels: Kernels, num_vectors: int, num_subspaces: int, codebook_size: int, width: int
) -> None:
    """No centroid is nearer than the one assigned, up to the rounding of float32 scores."""
    codebook = gaussian(1, num_subspaces, codebook_size, width)
    vectors = gaussian(2, num_vectors, num_subspaces * width)

    codes = kernels.assign(vectors, codebook)

    parts = vectors.reshape(num_vectors, num_subspaces, width).astype(np.float64)
    for m in range(num_subspaces):
        distances = np.square(parts[:, m, None] - codebook[m]).sum(axis=2)
        chosen = distances[np.arange(num_vectors), codes[:, m]]
        assert (chosen <= distances.min(axis=1) + 1e-5).all()


@pytest.mark.parametrize("codebook_size", [2, 255, 256, 257, 700])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_assign_gives_ties_to_the_lowest_index(
    kernels: Kernels, codebook_size: int, dtype: type
) -> None:
    """On small integers every score is exact, most are tied, and the codes equal the reference."""
    rng = np.random.default_rng(3)
    codebook: np.ndarray = rng.integers(-2, 3, (3, codebook_size, 3)).astype(dtype)
    vectors = rng.integers(-3, 4, (300, 9)).astype(np.float32)

    codes = kernels.assign(vectors, codebook)

    assert np.array_equal(codes, reference.assign(vectors, codebook))
    same = (codebook[0, codes[:, 0]][:, None] == codebook[0][None]).all(axis=2)
    assert np.array_equal(same.argmax(axis=1), codes[:, 0])


def test_assign_of_a_centroid_is_that_centroid(kernels: Kernels) -> None:
    """A vector made of centroids gets their codes back."""
    codebook = gaussian(4, 4, 300, 8)
    codes = np.random.default_rng(5).integers(0, 300, (50, 4)).astype(np.uint16)

    assert np.array_equal(kernels.assign(kernels.gather(codes, codebook), codebook), codes)


@pytest.mark.parametrize("width", [1, 3, 8, 16, 17, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_gather_copies_the_bits(kernels: Kernels, dtype: type, width: int) -> None:
    """Every value is the codebook's, bit for bit."""
    codebook: np.ndarray = gaussian(6, 3, 37, width).astype(dtype)
    codes = np.random.default_rng(7).integers(0, 37, (29, 3)).astype(np.uint16)

    vectors = kernels.gather(codes, codebook)

    wanted = np.concatenate([codebook[m][codes[:, m]] for m in range(3)], axis=1)
    bits = BITS[wanted.itemsize]
    assert np.array_equal(vectors.view(bits), wanted.view(bits))


def test_cpu_assign_does_not_depend_on_the_batch() -> None:
    """A vector has the same codes alone, in a batch, and at any place in it."""
    codebook, vectors = gaussian(8, 2, 600, 8), gaussian(9, 500, 16)
    whole = cpu_assign(vectors, codebook)

    for start, stop in [(0, 1), (3, 10), (100, 400), (499, 500)]:
        assert np.array_equal(cpu_assign(vectors[start:stop], codebook), whole[start:stop])


@pytest.mark.parametrize("num_threads", [1, 2, 7])
def test_cpu_kernels_do_not_depend_on_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, num_threads: int
) -> None:
    """One core and many give the same codes and vectors."""
    codebook, vectors = gaussian(10, 8, 4096, 16), gaussian(11, 700, 128)
    codes = cpu_assign(vectors, codebook)
    decoded = cpu_gather(codes, codebook)

    monkeypatch.setattr(threads, "num_cores", lambda: num_threads)

    assert np.array_equal(cpu_assign(vectors, codebook), codes)
    assert np.array_equal(cpu_gather(codes, codebook), decoded)


def test_cpu_kernels_can_be_called_from_many_threads_at_once() -> None:
    """Eight threads that encode and decode without pause get the right answer each time."""
    codebook, vectors = gaussian(12, 8, 300, 16), gaussian(13, 2000, 128)
    codes = cpu_assign(vectors, codebook)
    decoded = cpu_gather(codes, codebook)

    def work(_: int) -> bool:
        same_codes = np.array_equal(cpu_assign(vectors, codebook), codes)
        return same_codes and np.array_equal(cpu_gather(codes, codebook), decoded)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(80)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 200, 499])
def test_cpu_assign_reports_values_that_are_not_finite(value: float, row: int) -> None:
    """One bad value in any place is enough."""
    vectors = gaussian(14, 500, 16)
    vectors[row, 9] = value

    tiles = cpu.prepare(gaussian(15, 2, 20, 8))

    assert not cpu.assign(vectors, tiles, np.empty((500, 2), np.uint16))


@pytest.mark.parametrize("scale", [1e-38, 1e30, 3e38])
def test_cpu_assign_survives_any_finite_value(scale: float) -> None:
    """Scores that overflow or underflow give some valid code."""
    vectors = gaussian(16, 50, 16).clip(-1, 1) * np.float32(scale)

    codes = cpu_assign(vectors, gaussian(17, 2, 20, 8))

    assert (codes < 20).all()


@pytest.mark.parametrize("out_dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize(("code_dtype", "size"), [(np.uint8, 200), (np.uint16, 300)])
def test_cpu_gather_reports_the_first_row_with_a_code_too_large(
    code_dtype: type, size: int, out_dtype: type
) -> None:
    """The row is the first, however the work is cut into chunks, and K itself is too large."""
    table = np.zeros((64, size, 64), np.uint16)
    codes: np.ndarray = np.zeros((900, 64), code_dtype)
    codes[[170, 171, 800], [63, 0, 5]] = size

    assert gathering.gather(codes, table, np.empty((900, 64 * 64), out_dtype)) == 170


@pytest.mark.parametrize("width", [1, 7, 16, 33])
def test_cpu_gather_widens_bfloat16_exactly(width: int) -> None:
    """float32 out of a bfloat16 codebook is what a cast gives, for all 65,536 bit patterns."""
    table = np.resize(np.arange(65_536, dtype=np.uint16), (2, 65_536, width))
    codes = np.stack([np.arange(65_536), np.arange(65_536)[::-1]], axis=1).astype(np.uint16)
    out = np.full((65_536, 2 * width), 0xFFFFFFFF, np.uint32)

    assert gathering.gather(codes, table, out) == -1

    wanted = reference.gather(codes, table).view(ml_dtypes.bfloat16).astype(np.float32)
    is_nan = np.isnan(wanted)
    assert np.array_equal(out.view(np.float32)[~is_nan], wanted[~is_nan])
    assert np.isnan(out.view(np.float32)[is_nan]).all()
