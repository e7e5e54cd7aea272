"""The safetensors format, read and written without copying tensors.

A file is an 8-byte little-endian length, a JSON header of that length, and the tensors' bytes. The
header is parsed here, so that every offset is checked before anything is read at it; tensors are
views into the file's bytes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from memstore.codec.buffers import LINE_BYTES, aligned_empty
from memstore.errors import CorruptionError, StorageError

_MAX_HEADER_BYTES = 1 << 20
_DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
}


def serialize(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Write tensors to a file in memory; equal tensors give equal bytes.

    Args:
        tensors: by name, none empty; written in order of name.

    Returns:
        (num_bytes,) uint8, read-only. The first tensor starts on 64 bytes.
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % LINE_BYTES)
    file = aligned_empty((8 + len(text) + end,), np.uint8)
    file[:8] = np.frombuffer(len(text).to_bytes(8, "little"), np.uint8)
    file[8 : 8 + len(text)] = np.frombuffer(text, np.uint8)
    data = file[8 + len(text) :]
    for name, tensor in tensors.items():
        start, stop = header[name]["data_offsets"]
        data[start:stop] = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    file.flags.writeable = False
    return file


def parse(file: np.ndarray, *, where: str) -> dict[str, np.ndarray]:
    """Read the tensors of a file.

    Args:
        file: (num_bytes,) uint8.
        where: what the file is called in an error.

    Returns:
        The tensors by name, as views of `file`.

    Raises:
        CorruptionError: if the header is not valid, or tensors do not cover the data exactly.
    """
    header_bytes = int.from_bytes(file[:8].tobytes(), "little")
    if len(file) < 8 or header_bytes > min(len(file) - 8, _MAX_HEADER_BYTES):
        raise _damaged(
            where,
            f"header of {header_bytes} bytes (at most {_MAX_HEADER_BYTES}) in {len(file)}",
        )
    try:
        header = json.loads(
            file[8 : 8 + header_bytes].tobytes(), object_pairs_hook=_without_repeats
        )
    except (ValueError, RecursionError) as err:
        raise _damaged(where, "the header is not JSON") from err
    if not isinstance(header, dict):
        raise _damaged(where, "the header is not an object")
    header.pop("__metadata__", None)
    data = file[8 + header_bytes :]
    _check_coverage(header, len(data), where)
    return _views(data, header)


def map_file(path: Path) -> np.ndarray:
    """Map a file's bytes: (num_bytes,) uint8, read-only, shared with other processes that map it.

    Raises:
        CorruptionError: if there is no such file, or nothing in it.
        StorageError: if it cannot be read.
    """
    try:
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except (FileNotFoundError, ValueError) as err:
        raise CorruptionError(f"{path}: the file is missing or empty", object=path) from err
    except OSError as err:
        raise StorageError(f"{path}: cannot be read: {err}", object=path) from err


def _views(data: np.ndarray, header: dict[str, Any]) -> dict[str, np.ndarray]:
    views = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        # A file of another writer may place a tensor off its alignment; that one is copied.
        view = data[start:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        views[name] = np.require(view, requirements="A")
    return views


def _check_coverage(header: dict[str, Any], data_bytes: int, where: str) -> None:
    end_of_last = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(item[1], where)):
        start, end = _offsets(entry, where)
        dtype, shape = entry.get("dtype"), entry.get("shape")
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise _damaged(where, f"tensor {name!r} is of a dtype that is not read here")
        if not isinstance(shape, list) or not all(_is_count(n) and n > 0 for n in shape):
            raise _damaged(where, f"tensor {name!r} has no valid shape")
        if start != end_of_last or end - start != math.prod(shape) * _DTYPES[dtype].itemsize:
            raise _damaged(where, f"tensor {name!r} at {start}..{end} does not fit its shape")
        end_of_last = end
    if end_of_last != data_bytes:
        raise _damaged(where, f"tensors end at {end_of_last}, the data at {data_bytes}")


def _offsets(entry: Any, where: str) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise _damaged(where, "a tensor has no valid data_offsets")
    return offsets[0], offsets[1]


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _damaged(where: str, what: str) -> CorruptionError:
    return CorruptionError(f"{where}: not a valid safetensors file: {what}", object=where)
