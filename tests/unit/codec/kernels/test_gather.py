"""`gather` and `gather_sum` against NumPy, bit for bit, in every layout they take."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from memstore.codec.buffers import aligned_empty
from memstore.codec.kernels import gather as kernels
from memstore.codec.kernels import reference

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BITS = {2: np.uint16, 4: np.uint32}


@pytest.fixture(params=["as it is", "tiled", "past the caches"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take the kernel's ways for large tables and outputs on small ones, which tests can afford."""
    way: str = request.param
    if way != "as it is":
        monkeypatch.setattr(kernels, "_GROUP_BYTES", 3 * 1000)
    if way == "past the caches":
        monkeypatch.setattr(kernels, "_CACHED_BYTES", 0)
    return way


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def random_codes(seed: int, num_rows: int, num_codes: int, size: int) -> np.ndarray:
    """Return uniform codes, uint8 if they fit."""
    codes = np.random.default_rng(seed).integers(0, size, (num_rows, num_codes))
    return codes.astype(np.uint8 if size <= 256 else np.uint16)


def poisoned(num_rows: int, dim: int, dtype: Any, offset: int = 0) -> np.ndarray:
    """Return an array full of ones, `offset` bytes after the start of a cache line."""
    buffer = aligned_empty((num_rows * dim * np.dtype(dtype).itemsize + 64,), np.uint8)
    buffer[:] = 0xFF
    end = offset + num_rows * dim * np.dtype(dtype).itemsize
    array: np.ndarray = buffer[offset:end].view(dtype).reshape(num_rows, dim)
    return array


def run_gather(codes: np.ndarray, table: np.ndarray, out: np.ndarray) -> int:
    """Gather arrays of any dtype: what the kernel moves are bits."""
    return kernels.gather(codes, table.view(BITS[table.itemsize]), out.view(BITS[out.itemsize]))


def summed(
    codes: np.ndarray,
    table: np.ndarray,
    dtype: Any,
    rows: np.ndarray | None = None,
    row_table: np.ndarray | None = None,
    addend: np.ndarray | None = None,
    addend_rows: np.ndarray | None = None,
) -> np.ndarray:
    """What `gather_sum` means: float32 from left to right, then one cast."""
    total = reference.gather(codes[:, : len(table)], table).astype(np.float32)
    if rows is not None and row_table is not None:
        total += row_table[rows].astype(np.float32)
    if addend is not None:
        total += addend if addend_rows is None else addend[addend_rows]
    with np.errstate(over="ignore"):
        return total.astype(dtype)


def assert_same_bits(got: np.ndarray, wanted: np.ndarray) -> None:
    """Compare dtype, shape and every bit."""
    bits = BITS[wanted.itemsize]
    assert got.dtype == wanted.dtype
    assert np.array_equal(got.view(bits), wanted.view(bits))


# rows, subspaces, centroids, width: odd ones, one group and several, a block and a bit.
LAYOUTS = [
    (0, 3, 300, 16), (1, 1, 256, 16), (33, 7, 300, 16), (1025, 9, 50, 16), (2100, 4, 257, 16),
    (130, 5, 30, 3), (130, 3, 30, 3), (61, 2, 40, 41),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16])
@pytest.mark.parametrize(("num_rows", "num_subspaces", "size", "width"), LAYOUTS)
def test_gather_copies_the_bits(
    path: str, dtype: Any, num_rows: int, num_subspaces: int, size: int, width: int
) -> None:
    """Every value is the codebook's, in every layout, whatever way the kernel takes."""
    table: np.ndarray = gaussian(1, num_subspaces, size, width).astype(dtype)
    codes = random_codes(2, num_rows, num_subspaces, size)
    out = poisoned(num_rows, num_subspaces * width, dtype)

    assert run_gather(codes, table, out) == -1

    assert_same_bits(out, reference.gather(codes, table))


@pytest.mark.parametrize(("num_rows", "num_subspaces", "size", "width"), LAYOUTS)
def test_gather_widens_bfloat16(
    path: str, num_rows: int, num_subspaces: int, size: int, width: int
) -> None:
    """float32 out of a bfloat16 codebook is what a cast gives."""
    table: np.ndarray = gaussian(1, num_subspaces, size, width).astype(BFLOAT16)
    codes = random_codes(2, num_rows, num_subspaces, size)
    out = poisoned(num_rows, num_subspaces * width, np.float32)

    assert run_gather(codes, table, out) == -1

    assert_same_bits(out, reference.gather(codes, table).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16])
def test_gather_decodes_a_batch_that_is_larger_than_the_caches(dtype: Any) -> None:
    """The ways for large tables and outputs give the same bits where they are taken for real."""
    table: np.ndarray = gaussian(1, 20, 65_536, 2).astype(dtype)
    codes = random_codes(2, 70_001, 20, 65_536)
    out = poisoned(70_001, 40, dtype)

    assert run_gather(codes, table, out) == -1

    assert_same_bits(out, reference.gather(codes, table))


@pytest.mark.parametrize("offset", [0, 2, 4, 16, 30, 32])
def test_arrays_may_start_anywhere(path: str, offset: int) -> None:
    """Neither the table nor the output has to start on a cache line."""
    table = poisoned(3 * 40, 16, BFLOAT16, offset).reshape(3, 40, 16)
    table[...] = gaussian(1, 3, 40, 16)
    codes = random_codes(2, 50, 3, 40)
    out = poisoned(50, 48, BFLOAT16, offset)

    assert run_gather(codes, table, out) == -1

    assert_same_bits(out, reference.gather(codes, table))


def test_columns_after_the_codes_are_not_read(path: str) -> None:
    """A record may hold more than the codes: a pad byte, or other words."""
    table = gaussian(1, 3, 40, 16)
    codes = random_codes(2, 50, 4, 40)
    codes[:, 3] = 255
    out = poisoned(50, 48, np.float32)

    assert run_gather(codes, table, out) == -1

    assert_same_bits(out, reference.gather(codes[:, :3], table))


@pytest.mark.parametrize(("code_dtype", "size"), [(np.uint8, 200), (np.uint16, 300)])
@pytest.mark.parametrize(
    "places",
    [[(0, 0)], [(0, 63)], [(2999, 0)], [(2999, 63)], [(170, 63), (171, 0), (800, 5)],
     [(1023, 63), (1024, 0)], [(1025, 63), (1030, 0)]],
)  # fmt: skip
def test_gather_reports_the_first_row_with_a_code_too_large(
    path: str, code_dtype: Any, size: int, places: list[tuple[int, int]]
) -> None:
    """The row is the first, however the work is cut, and K itself is too large."""
    table = np.zeros((64, size, 4), np.uint16)
    codes: np.ndarray = np.zeros((3000, 64), code_dtype)
    for row, m in places:
        codes[row, m] = size

    assert kernels.gather(codes, table, np.empty((3000, 256), np.uint16)) == places[0][0]


def test_a_bad_code_is_not_followed(path: str) -> None:
    """What lies behind the table does not reach the output."""
    behind = np.full((2, 65_536, 16), 7, np.uint16)
    table = behind.reshape(-1, 16)[:600].reshape(2, 300, 16)
    table[...] = 1
    codes = np.full((4, 2), 65_535, np.uint16)
    codes[:, 0] = [0, 299, 0, 300]
    out = np.zeros((4, 32), np.uint16)

    assert kernels.gather(codes, table, out) == 0

    assert out.max() <= 1


# A row, an addend of its own or one of a few, a float32 table.
TERMS = [
    (True, None, False), (False, "own", True), (True, "own", False), (True, "one of a few", False),
    (False, "one of a few", False),
]  # fmt: skip


@pytest.mark.parametrize(("has_row", "addend", "is_wide"), TERMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16])
@pytest.mark.parametrize(("num_rows", "num_subspaces", "size", "width"), LAYOUTS[:-2])
def test_gather_sum_adds_in_float32_and_casts_once(
    path: str, num_rows: int, num_subspaces: int, size: int, width: int, dtype: Any,
    has_row: bool, addend: str | None, is_wide: bool,
) -> None:  # fmt: skip
    """Every bit is that of float32 sums in NumPy, for any of the terms."""
    dim = num_subspaces * width
    table: np.ndarray = gaussian(1, num_subspaces, size, width).astype(
        np.float32 if is_wide else BFLOAT16
    )
    codes = random_codes(2, num_rows, num_subspaces, size)
    terms: dict[str, np.ndarray] = {}
    if has_row:
        terms["row_table"] = gaussian(3, 11, dim).astype(BFLOAT16)
        terms["rows"] = np.random.default_rng(4).integers(0, 11, num_rows, np.uint32)
    if addend is not None:
        terms["addend"] = gaussian(5, num_rows if addend == "own" else 7, dim)
    if addend == "one of a few":
        terms["addend_rows"] = np.random.default_rng(6).integers(0, 7, num_rows)
    out = poisoned(num_rows, dim, dtype)

    assert kernels.gather_sum(codes, table, out, **terms) == -1

    assert_same_bits(out, summed(codes, table, dtype, **terms))


def test_gather_sum_rounds_every_float32_to_the_nearest_bfloat16() -> None:
    """Ties, subnormals, signed zeros, overflow and infinities round as NumPy's cast does."""
    high = np.arange(65_536, dtype=np.uint32)[:, None] << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    addend = (high | low).view(np.float32)
    addend = np.ascontiguousarray(addend[~np.isnan(addend).any(axis=1)])
    table = np.full((1, 2, 6), -0.0, BFLOAT16)
    out = poisoned(len(addend), 6, BFLOAT16)

    codes = np.zeros((len(addend), 1), np.uint8)
    assert kernels.gather_sum(codes, table, out, addend=addend) == -1

    assert_same_bits(out, addend.astype(BFLOAT16))


def test_gather_sum_keeps_a_nan() -> None:
    """A NaN of the addend does not become a number, whatever its bits."""
    addend = np.array([[0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF]], np.uint32).view(np.float32)
    table = np.zeros((1, 2, 3), BFLOAT16)
    out = np.zeros((1, 3), BFLOAT16)

    assert kernels.gather_sum(np.zeros((1, 1), np.uint8), table, out, addend=addend) == -1

    assert np.isnan(out).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16])
@pytest.mark.parametrize("row_dtype", [np.int64, np.uint32, np.uint64, np.uint16])
def test_gather_sum_reports_a_row_beyond_the_table(path: str, dtype: Any, row_dtype: Any) -> None:
    """V itself and the largest number are refused like a code too large; the first one is named."""
    codes, table = random_codes(1, 1500, 3, 40), np.zeros((3, 40, 16), BFLOAT16)
    rows = np.full(1500, 8, row_dtype)
    rows[[1100, 1101]] = [np.iinfo(row_dtype).max, 9]
    row_table = np.zeros((9, 48), BFLOAT16)
    out = np.empty((1500, 48), dtype)

    assert kernels.gather_sum(codes, table, out, rows=rows, row_table=row_table) == 1100

    codes[1099, 2] = 40
    assert kernels.gather_sum(codes, table, out, rows=rows, row_table=row_table) == 1099


def test_gather_sum_reports_negative_rows_and_an_empty_table(path: str) -> None:
    """No row is counted from the end."""
    codes, table = random_codes(1, 3, 3, 40), np.zeros((3, 40, 16), BFLOAT16)
    out = np.empty((3, 48), np.float32)
    rows = np.array([0, 0, -1])

    row_table = np.zeros((9, 48), BFLOAT16)
    assert kernels.gather_sum(codes, table, out, rows=rows, row_table=row_table) == 2
    assert kernels.gather_sum(codes, table, out, rows=rows, row_table=row_table[:0]) == 0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Eight callers."""
    with ThreadPoolExecutor(8) as executor:
        yield executor


def test_many_threads_may_call_at_once(path: str, pool: ThreadPoolExecutor) -> None:
    """Each caller gets the right bits, of both kernels, while others run."""
    table: np.ndarray = gaussian(1, 8, 300, 16).astype(BFLOAT16)
    codes = random_codes(2, 3000, 8, 300)
    rows = np.random.default_rng(3).integers(0, 50, 3000)
    terms = {"rows": rows, "row_table": gaussian(4, 50, 128).astype(BFLOAT16)}
    gathered = reference.gather(codes, table)
    total = summed(codes, table, BFLOAT16, **terms)

    def work(_: int) -> bool:
        first, second = poisoned(3000, 128, BFLOAT16), poisoned(3000, 128, BFLOAT16)
        is_whole = run_gather(codes, table, first) == -1
        is_whole &= kernels.gather_sum(codes, table, second, **terms) == -1
        return is_whole and np.array_equal(first, gathered) and np.array_equal(second, total)

    assert all(pool.map(work, range(40)))
