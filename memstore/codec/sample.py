"""A sample of memories, in memory or as a file: what codecs are trained on and compared over.

A sample file is a safetensors file of the tensors that `Sample` names, or a bare `.npy` array of
vectors. It is read through a memory map.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memstore.codec import tensorfile
from memstore.codec.passages import blocks, rows_of
from memstore.errors import (
    AlreadyExistsError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    ShapeError,
    StorageError,
    StorageFullError,
)

_VECTOR_DTYPES = ("float16", "bfloat16", "float32")
_INTEGER_DTYPES = ("int32", "int64")
_DTYPES = {
    "vectors": _VECTOR_DTYPES,
    "token_ids": _INTEGER_DTYPES,
    "offsets": _INTEGER_DTYPES,
    "documents": _INTEGER_DTYPES,
    "vocabulary": ("float32",),
}
_NUM_AXES = {"vectors": 2, "token_ids": 1, "offsets": 1, "documents": 1, "vocabulary": 2}
_BLOCK_BYTES = 1 << 26  # checked for NaN at a time


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Memories, and what is known of them.

    Attributes:
        vectors: (N, D) float16, bfloat16 or float32; may be a memory map.
        token_ids: (N,) integers.
        offsets: (P + 1,) int64: passage i is rows `offsets[i]:offsets[i + 1]`; None: one passage.
        documents: (P,) integers: which document each passage is of.
        vocabulary: V, or better a (V, F) float32 array of something that is known of every token,
            such as its memory when it stands alone.
    """

    vectors: np.ndarray
    token_ids: np.ndarray | None = None
    offsets: np.ndarray | None = None
    vocabulary: np.ndarray | int | None = None
    documents: np.ndarray | None = None

    def split(self, held_out: float = 0.1, seed: int = 0) -> tuple[Sample, Sample]:
        """Part the sample in two, to train on one and measure on the other.

        Whole documents go to one side; or passages, where no documents are known; or rows.

        Args:
            held_out: share of the rows that the second part has at least.
            seed: of the choice.

        Returns:
            The larger part, and the part that is held out; vectors are copied.

        Raises:
            ShapeError: if there is nothing to part, as in a sample of one document.
        """
        lengths = np.ones(len(self.vectors), np.int64)
        if self.offsets is not None:
            lengths = np.diff(self.offsets)
        groups = np.arange(len(lengths)) if self.documents is None else self.documents
        names, group_of = np.unique(groups, return_inverse=True)
        if len(names) < 2:
            raise ShapeError(
                "sample: all of it is one document, of which nothing can be held out; wanted two"
            )
        order = np.random.default_rng(seed).permutation(len(names))
        num_rows = np.cumsum(np.bincount(group_of, weights=lengths)[order])
        num_held_out = 1 + int(np.searchsorted(num_rows, held_out * len(self.vectors)))
        is_held_out = np.zeros(len(names), bool)
        is_held_out[order[: min(num_held_out, len(names) - 1)]] = True
        held = is_held_out[group_of]
        return self._take(np.flatnonzero(~held)), self._take(np.flatnonzero(held))

    def blocks(self, num_rows: int) -> Iterator[Sample]:
        """Yield the sample in parts of about so many rows; passages that matter are not cut."""
        if self.offsets is None:
            step = num_rows if self.token_ids is None else max(1, len(self.vectors))
            for start in range(0, len(self.vectors), step):
                yield self._rows(slice(start, start + step), None)
            return
        for first, last in blocks(self.offsets, num_rows):
            start, stop = self.offsets[first], self.offsets[last]
            if stop > start:
                yield self._rows(slice(start, stop), self.offsets[first : last + 1] - start)

    def _rows(self, rows: slice, offsets: np.ndarray | None) -> Sample:
        token_ids = self.token_ids[rows] if self.token_ids is not None else None
        return Sample(self.vectors[rows], token_ids, offsets, self.vocabulary)

    def _take(self, passages: np.ndarray) -> Sample:
        """Return some of the passages, or of the rows where there are no passages."""
        if self.offsets is None:
            token_ids = self.token_ids[passages] if self.token_ids is not None else None
            return Sample(self.vectors[passages], token_ids, None, self.vocabulary)
        rows, offsets = rows_of(self.offsets, passages)
        return Sample(
            self.vectors[rows],
            self.token_ids[rows] if self.token_ids is not None else None,
            offsets,
            self.vocabulary,
            self.documents[passages] if self.documents is not None else None,
        )


def read_sample(path: str | Path) -> Sample:
    """Open a sample file; the vectors stay in it, mapped.

    Args:
        path: `.npy`: an array (N, D); anything else: a safetensors file.

    Raises:
        NotFoundError: if there is no such file.
        CorruptionError: if it is not of its format.
        ShapeError: if it is, but a tensor has the wrong shape, dtype or values.
        StorageError: if it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"{path}: no such sample file; memstore codec sample makes one")
    if path.suffix == ".npy":
        tensors = {"vectors": _map_array(path)}
    else:
        tensors = tensorfile.parse(tensorfile.map_file(path), where=str(path))
    where = str(path)
    for name, tensor in tensors.items():
        _check_kind(name, tensor, where)
    if "vectors" not in tensors:
        raise ShapeError(f"{where}: got no tensor 'vectors', wanted one (N, D)")
    sample = Sample(
        tensors["vectors"],
        tensors.get("token_ids"),
        tensors["offsets"].astype(np.int64) if "offsets" in tensors else None,
        tensors.get("vocabulary"),
        tensors.get("documents"),
    )
    check_sample(sample, where=where)
    return sample


def write_sample(path: str | Path, sample: Sample) -> None:
    """Write a sample file; a crash leaves the whole file or none.

    Raises:
        AlreadyExistsError: if there is such a file.
        ShapeError: as `read_sample` of what would be written.
        StorageFullError, StorageError: if it cannot be written.
    """
    path = Path(path)
    check_absent(path)
    tensors = {name: getattr(sample, name) for name in _DTYPES}
    tensors = {name: each for name, each in tensors.items() if isinstance(each, np.ndarray)}
    for name, tensor in tensors.items():
        _check_kind(name, tensor, str(path))
    check_sample(sample, where=str(path))
    try:
        _write(path, {name: np.ascontiguousarray(each) for name, each in tensors.items()})
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(err):
            raise StorageFullError(f"{path}: no space left for the sample; free some") from err
        raise StorageError(f"{path}: the sample cannot be written: {err}") from err


def check_absent(path: str | Path) -> None:
    """Refuse to write over a file: ask before the work is done.

    Raises:
        AlreadyExistsError: if there is such a file.
    """
    if Path(path).exists():
        raise AlreadyExistsError(f"{path}: is there already; write the sample to another file")


def check_sample(sample: Sample, *, where: str) -> None:
    """Refuse a sample whose parts do not fit each other, or that holds NaN or infinity.

    Raises:
        ShapeError: naming the part, and the row where there is one.
    """
    num_rows = len(sample.vectors)
    if sample.offsets is not None:
        _check_offsets(sample.offsets, num_rows, where)
    if sample.documents is not None:
        num_passages = len(sample.offsets) - 1 if sample.offsets is not None else 0
        if len(sample.documents) != num_passages:
            raise ShapeError(
                f"{where}: documents: got {len(sample.documents)} for {num_passages} passages of "
                "'offsets'; wanted one a passage"
            )
    if sample.token_ids is not None:
        _check_token_ids(sample.token_ids, sample, where)
    _check_finite("vectors", sample.vectors, where)
    if isinstance(sample.vocabulary, np.ndarray):
        _check_finite("vocabulary", sample.vocabulary, where)


def _check_kind(name: str, tensor: np.ndarray, where: str) -> None:
    if name not in _DTYPES:
        raise ShapeError(
            f"{where}: got a tensor {name!r}, wanted none but {', '.join(_DTYPES)}", tensor=name
        )
    if tensor.dtype.name not in _DTYPES[name]:
        raise ShapeError(
            f"{where}: {name}: got {tensor.dtype.name}, wanted {' or '.join(_DTYPES[name])}"
        )
    if tensor.ndim != _NUM_AXES[name] or 0 in tensor.shape:
        wanted = "(N, D)" if _NUM_AXES[name] == 2 else "(N,)"
        raise ShapeError(f"{where}: {name}: got shape {tensor.shape}, wanted {wanted}, not empty")


def _check_offsets(offsets: np.ndarray, num_rows: int, where: str) -> None:
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != num_rows:
        raise ShapeError(
            f"{where}: offsets: got {offsets[0]} to {offsets[-1]}, wanted 0 to {num_rows}, the "
            "number of vectors"
        )
    falling = np.flatnonzero(np.diff(offsets) < 0)
    if len(falling):
        raise ShapeError(
            f"{where}: offsets: passage {falling[0]} ends before it begins; wanted rising values",
            row=int(falling[0]),
        )


def _check_token_ids(token_ids: np.ndarray, sample: Sample, where: str) -> None:
    vocabulary = sample.vocabulary
    if token_ids.shape != sample.vectors.shape[:1]:
        raise ShapeError(
            f"{where}: token_ids: got {len(token_ids)} for {len(sample.vectors)} vectors; wanted "
            "one each"
        )
    size = len(vocabulary) if isinstance(vocabulary, np.ndarray) else vocabulary
    bad = np.flatnonzero((token_ids < 0) | (token_ids >= (size or np.iinfo(np.int32).max)))
    if len(bad):
        row = int(bad[0])
        wanted = f"0 to {size - 1}, as 'vocabulary' has {size} rows" if size else "ids from 0 on"
        raise ShapeError(
            f"{where}: token_ids: row {row} is {token_ids[row]}, wanted {wanted}", row=row
        )


def _check_finite(name: str, rows: np.ndarray, where: str) -> None:
    step = max(1, _BLOCK_BYTES // (rows.shape[1] * rows.itemsize))
    for start in range(0, len(rows), step):
        finite = np.isfinite(rows[start : start + step])
        if not finite.all():
            row = start + int(np.flatnonzero(~finite.all(axis=1))[0])
            raise ShapeError(f"{where}: {name}: row {row} holds NaN or infinity", row=row)


def _map_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r")
    except OSError as err:
        raise StorageError(f"{path}: cannot be read: {err}", object=path) from err
    except (ValueError, EOFError) as err:
        raise CorruptionError(f"{path}: not a .npy array of numbers: {err}", object=path) from err
    if not isinstance(array, np.ndarray):
        raise InvalidInputError(f"{path}: not a .npy file")
    return array


def _write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write under a temporary name first; tensors are not copied."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        save_file(tensors, temporary)
        temporary.chmod(0o644)  # a sample is shared by a machine's users
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except SafetensorError as err:  # what the system says stands only in its text
        raise OSError(str(err)) from err
    finally:
        temporary.unlink(missing_ok=True)
