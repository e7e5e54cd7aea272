"""Memories on the wire: one table of rows, cut into checked chunks of about 1 MiB.

The table lays the memories of an answer's passages one after another; passage i owns as many rows
as its `num_tokens` says. A chunk carries its place, shape, dtype, codec and checksum, and every one
of them is checked on arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import ml_dtypes
import numpy as np

from memstore.client.messages import PAGE_BYTES
from memstore.errors import ConfigError, CorruptionError, MemstoreError
from memstore.v1 import memory_pb2 as pb

CODES = "uint16"
"""Name of the spelling of memories as records of their codec."""

_NUMPY: dict[str, np.dtype[Any]] = {
    CODES: np.dtype(np.uint16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}
_TO_PROTO = {
    CODES: pb.DTYPE_CODES_UINT16,
    "bfloat16": pb.DTYPE_BFLOAT16,
    "float16": pb.DTYPE_FLOAT16,
    "float32": pb.DTYPE_FLOAT32,
}
_FROM_PROTO = {number: name for name, number in _TO_PROTO.items()} | {pb.DTYPE_UNSPECIFIED: CODES}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a spelling.

    Raises:
        ConfigError: if the name is none of "uint16", "bfloat16", "float16", "float32".
    """
    if name not in _NUMPY:
        raise ConfigError(f"dtype {name!r}: wanted one of {', '.join(_NUMPY)}", dtype=name)
    return _NUMPY[name]


def dtype_to_proto(name: str) -> pb.Dtype:
    """Return the number of a spelling; raises `ConfigError` like `numpy_dtype`."""
    numpy_dtype(name)
    return _TO_PROTO[name]


def dtype_from_proto(number: int) -> str:
    """Return the name of a spelling; unspecified is "uint16".

    Raises:
        ConfigError: if the number is not one of `memstore.v1.Dtype`.
    """
    for known, name in _FROM_PROTO.items():
        if known == number:
            return name
    raise ConfigError(f"dtype number {number}: not one of memstore.v1.Dtype", dtype=number)


def chunk_rows(
    memories: Iterable[np.ndarray],
    *,
    codec_id: str,
    dtype: str = CODES,
    row_bytes: int,
    convert: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[pb.MemoryChunk]:
    """Cut memories into chunks, each made only when it is asked for.

    Args:
        memories: arrays (T_i, V) of one dtype and width, taken when they are needed.
        codec_id: codec that the rows belong to.
        dtype: spelling of the rows that are sent.
        row_bytes: bytes of a row that is sent.
        convert: (T, V) rows to the rows that are sent, such as a decoder; `None`: as they are.
    """
    first_row = 0
    for group in _groups(memories, max(1, PAGE_BYTES // row_bytes)):
        rows = group[0] if len(group) == 1 else np.concatenate(group)
        rows = rows if convert is None else convert(rows)
        data = rows.tobytes()
        yield pb.MemoryChunk(
            first_row=first_row,
            shape=rows.shape,
            dtype=dtype_to_proto(dtype),
            codec_id=codec_id,
            data=data,
            crc32c=google_crc32c.value(data),
        )
        first_row += rows.shape[0]


def _groups(memories: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Slice arrays into groups of `size` rows; only the last group may have fewer."""
    group: list[np.ndarray] = []
    missing = size
    for memory in memories:
        start = 0
        while start < memory.shape[0]:
            piece = memory[start : start + missing]
            group.append(piece)
            start += piece.shape[0]
            missing -= piece.shape[0]
            if missing == 0:
                yield group
                group, missing = [], size
    if group:
        yield group


@dataclass(frozen=True, slots=True, kw_only=True)
class TableShape:
    """What the chunks of one stream must add up to.

    Attributes:
        num_rows: rows of all passages together.
        row_width: values in a row.
        dtype: spelling of the rows.
        codec_id: codec that every chunk must name.
    """

    num_rows: int
    row_width: int
    dtype: str
    codec_id: str


class RowTable:
    """Puts a stream's chunks together; refuses all but the next chunk, whole, of the right make.

    Args:
        shape: what is expected.
        fault: error to raise for a chunk out of place or of another make: `CorruptionError` at a
            client, where the answer cannot be trusted, `InvalidInputError` at a server, where the
            request is wrong.
    """

    def __init__(self, shape: TableShape, *, fault: type[MemstoreError] = CorruptionError) -> None:
        self._expected = shape
        self._fault = fault
        self._parts: list[bytes] = []
        self._num_rows = 0

    def add(self, chunk: pb.MemoryChunk) -> None:
        """Take the next chunk.

        Raises:
            CorruptionError: if the bytes are not those that were sent.
            MemstoreError: the `fault`, if the chunk is not the one that must come now.
        """
        want = self._expected
        self._check("first row", chunk.first_row, self._num_rows)
        self._check("dtype", chunk.dtype, dtype_to_proto(want.dtype))
        self._check("codec", chunk.codec_id, want.codec_id)
        self._check("number of axes", len(chunk.shape), 2)
        num_rows, row_width = chunk.shape
        self._check("row width", row_width, want.row_width)
        if not 0 < num_rows <= want.num_rows - self._num_rows:
            self._check("number of rows", self._num_rows + num_rows, want.num_rows)
        num_bytes = num_rows * row_width * numpy_dtype(want.dtype).itemsize
        self._check("bytes", len(chunk.data), num_bytes)
        checksum = google_crc32c.value(chunk.data)
        if checksum != chunk.crc32c:
            raise CorruptionError(
                f"chunk at row {self._num_rows}: crc32c is {checksum:08x}, the sender says "
                f"{chunk.crc32c:08x}; the bytes changed on the way, nothing of them was used"
            )
        self._parts.append(chunk.data)
        self._num_rows += num_rows

    def finish(self) -> np.ndarray:
        """Return the (num_rows, row_width) table, read-only; only after the last chunk.

        Raises:
            MemstoreError: the `fault`, if rows are missing.
        """
        self._check("number of rows at the end", self._num_rows, self._expected.num_rows)
        data = b"".join(self._parts)
        table = np.frombuffer(data, dtype=numpy_dtype(self._expected.dtype))
        return table.reshape(self._expected.num_rows, self._expected.row_width)

    def _check(self, what: str, got: object, wanted: object) -> None:
        if got != wanted:
            raise self._fault(
                f"chunk at row {self._num_rows}: {what} is {got}, wanted {wanted}",
                row=self._num_rows,
            )


def split_rows(table: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    """Cut a table of `sum(counts)` rows into views of `counts[i]` rows."""
    ends = np.cumsum(np.asarray(counts, dtype=np.int64))
    return np.split(table, ends[:-1]) if counts else []
