"""What a codec accepts, and how it says no."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from memstore.errors import ConfigError, ShapeError

DTYPES: dict[str, np.dtype[Any]] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}
CODEBOOK_DTYPES = ("bfloat16", "float32")
_CODEBOOK_DTYPES = tuple(DTYPES[name] for name in CODEBOOK_DTYPES)
_VECTOR_DTYPES = (*DTYPES.values(), np.dtype(np.float64))


def check_codebook(codebook: Any) -> None:
    """Refuse what is not a finite (M, K, width) float32 or bfloat16 array, 2 <= K <= 65,536."""
    if not isinstance(codebook, np.ndarray) or codebook.dtype not in _CODEBOOK_DTYPES:
        raise ShapeError(f"codebook: got {_kind(codebook)}, wanted an array of float32 or bfloat16")
    if codebook.ndim != 3 or 0 in codebook.shape or not 2 <= codebook.shape[1] <= 65_536:
        raise ShapeError(
            f"codebook: got shape {codebook.shape}, wanted (num_subspaces, codebook_size, width) "
            "with 2 to 65,536 centroids"
        )
    for m, centroids in enumerate(codebook):
        if not np.isfinite(centroids).all():
            raise ShapeError(f"codebook: subspace {m} holds NaN or infinity", subspace=m)


def check_vectors(vectors: Any, dim: int) -> None:
    """Refuse what is not a (T, dim) floating-point array."""
    if not isinstance(vectors, np.ndarray) or vectors.dtype not in _VECTOR_DTYPES:
        raise ShapeError(f"vectors: got {_kind(vectors)}, wanted a floating-point array (T, {dim})")
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ShapeError(f"vectors: got shape {vectors.shape}, wanted (T, {dim})")


def check_dtype(dtype: str, wanted: tuple[str, ...]) -> np.dtype[Any]:
    """Return the dtype of this name; refuse one that is not among `wanted`."""
    if dtype not in wanted:
        raise ConfigError(f"dtype: got {dtype!r}, wanted {' or '.join(wanted)}")
    return DTYPES[dtype]


def as_records(records: Any, num_words: int) -> np.ndarray:
    """Return (T, num_words) records as contiguous uint16; int16 is viewed, others are refused."""
    if not isinstance(records, np.ndarray) or records.dtype not in (np.uint16, np.int16):
        raise ShapeError(f"records: got {_kind(records)}, wanted a uint16 array (T, {num_words})")
    if records.ndim != 2 or records.shape[1] != num_words:
        raise ShapeError(f"records: got shape {records.shape}, wanted (T, {num_words})")
    return np.require(records, requirements=["C", "A"]).view(np.uint16)


def check_out(out: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Refuse a buffer that cannot be filled as it lies."""
    if not isinstance(out, np.ndarray) or out.dtype != dtype or out.shape != shape:
        raise ShapeError(f"out: got {_kind(out)} {np.shape(out)}, wanted {dtype.name} {shape}")
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ShapeError("out: wanted an array that is C-contiguous, aligned and writable")


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return f"a {type(value).__name__}"
