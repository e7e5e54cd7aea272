"""What a codec accepts, and how it says no."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from memstore.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from memstore.codec.predictor import TokenPredictor
    from memstore.codec.rotation import Rotation

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


def check_stages(dim: int, rotation: Rotation | None, predictor: TokenPredictor | None) -> None:
    """Refuse stages of another width than the codebook's D."""
    if rotation is not None and (rotation.dim != dim or not rotation.is_permuted()):
        raise ShapeError(f"rotation: got one of {rotation.dim} dimensions, wanted {dim}")
    if predictor is not None and predictor.tokens.shape[1:] != (dim,):
        raise ShapeError(f"predictor: got tables {predictor.tokens.shape}, wanted (V, {dim})")


def check_token_ids(token_ids: Any, num_rows: int, vocabulary_size: int) -> np.ndarray:
    """Return (num_rows,) token ids below `vocabulary_size`; refuse what are not."""
    if token_ids is None:
        raise ShapeError("token_ids: got none; the codec predicts from them, one a vector")
    if not isinstance(token_ids, np.ndarray) or token_ids.dtype.kind not in "iu":
        raise ShapeError(f"token_ids: got {_kind(token_ids)}, wanted an array of integers (T,)")
    if token_ids.shape != (num_rows,):
        raise ShapeError(f"token_ids: got shape {token_ids.shape}, wanted ({num_rows},)")
    bad_rows = np.flatnonzero((token_ids < 0) | (token_ids >= vocabulary_size))
    if len(bad_rows):
        row = int(bad_rows[0])
        raise ShapeError(
            f"token_ids: row {row} is {token_ids[row]}, wanted 0 to {vocabulary_size - 1}", row=row
        )
    checked: np.ndarray = token_ids
    return checked


def as_offsets(offsets: Any, num_rows: int) -> np.ndarray:
    """Return (P + 1,) int64 offsets that cover the rows; None stands for one passage."""
    if offsets is None:
        return np.array([0, num_rows])
    if not isinstance(offsets, np.ndarray) or offsets.dtype.kind not in "iu" or offsets.ndim != 1:
        raise ShapeError(f"offsets: got {_kind(offsets)}, wanted an array of integers (P + 1,)")
    rising: np.ndarray = offsets.astype(np.int64)
    ends = rising[[0, -1]].tolist() if len(rising) else []
    if ends != [0, num_rows] or (np.diff(rising) < 0).any():
        raise ShapeError(f"offsets: wanted rising values from 0 to the number of rows, {num_rows}")
    return rising


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
