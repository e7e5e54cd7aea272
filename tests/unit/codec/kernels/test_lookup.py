"""The lookup kernel against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.codec.kernels import lookup

OFFSETS = np.array([0, 1, 4, 200, 203])


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def expected(
    codes: np.ndarray, tables: np.ndarray, rows: np.ndarray, row_tables: np.ndarray
) -> np.ndarray:
    """Return (P, B * LANES) maxima, summed in float64."""
    subspaces = np.arange(tables.shape[1])
    sums = tables[:, subspaces, codes[:, : len(subspaces)]].sum(axis=2, dtype=np.float64)
    sums += row_tables[:, rows].sum(axis=2, dtype=np.float64)  # (B, T, LANES)
    best = np.maximum.reduceat(sums, OFFSETS[:-1], axis=1)
    return best.transpose(1, 0, 2).reshape(len(OFFSETS) - 1, -1)


@pytest.mark.parametrize("num_terms", [0, 1, 7])
@pytest.mark.parametrize("num_subspaces", [1, 4, 7, 48])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_maxima_equal_the_reference(dtype: type, num_subspaces: int, num_terms: int) -> None:
    """For subspaces in and out of step with the chains of sums, with and without other terms."""
    rng = np.random.default_rng(1)
    codes: np.ndarray = rng.integers(0, 200, (OFFSETS[-1], num_subspaces + 1)).astype(dtype)
    codes[:, num_subspaces] = 255  # a column that is no code
    tables = gaussian(2, 2, num_subspaces, 200, lookup.LANES)
    rows = rng.integers(0, 30, (OFFSETS[-1], num_terms)).astype(np.int32)
    row_tables = gaussian(3, 2, 30, lookup.LANES)

    best, bad_token = lookup.max_similarity(
        codes, tables, OFFSETS, rows=rows, row_tables=row_tables
    )

    assert bad_token == -1
    np.testing.assert_allclose(best, expected(codes, tables, rows, row_tables), atol=2e-5)


def test_a_bad_code_is_found() -> None:
    """The first token with a code of K or more is named, and nothing beyond the table is read."""
    codes = np.zeros((OFFSETS[-1], 5), np.uint8)
    codes[202, 1] = codes[3, 4] = codes[120, 0] = 200
    tables = gaussian(2, 1, 5, 200, lookup.LANES)

    _, bad_token = lookup.max_similarity(codes, tables, OFFSETS)

    assert bad_token == 3
