"""The safetensors reader and writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from memstore.codec import tensorfile
from memstore.errors import CorruptionError, StorageError


def file_of(header: Any, data: bytes = b"") -> np.ndarray:
    """Return a file with this header, JSON or raw bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return np.frombuffer(len(text).to_bytes(8, "little") + text + data, np.uint8)


def entry(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    """Return the header's entry for a tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_tensors_come_back_as_views_of_the_file() -> None:
    """Round trip, without a copy."""
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.ones((3, 1, 2), ml_dtypes.bfloat16),
    }
    file = tensorfile.serialize(tensors)

    read = tensorfile.parse(file, where="x")

    assert list(read) == ["a", "b"]
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert np.array_equal(read[name], tensor)
        assert np.shares_memory(read[name], file)


def test_equal_tensors_give_equal_bytes_from_aligned_data() -> None:
    """Neither order nor memory layout matters; the first tensor starts on 64 bytes."""
    one, two = np.arange(12.0, dtype=np.float32).reshape(3, 4), np.ones(5, np.uint8)

    file = tensorfile.serialize({"one": one, "two": two})

    assert np.array_equal(file, tensorfile.serialize({"two": two, "one": np.asfortranarray(one)}))
    assert (8 + int.from_bytes(file[:8].tobytes(), "little")) % 64 == 0


def test_the_safetensors_library_reads_what_we_write(tmp_path: Path) -> None:
    """The file is a safetensors file like any other."""
    tensor = np.arange(10, dtype=np.float32).reshape(5, 2)
    path = tmp_path / "x.safetensors"
    path.write_bytes(tensorfile.serialize({"codebook": tensor}).tobytes())

    assert np.array_equal(safetensors_numpy.load_file(path)["codebook"], tensor)


def test_what_the_safetensors_library_writes_is_read() -> None:
    """Metadata is passed over and a tensor off its alignment is copied."""
    tensors: dict[str, np.ndarray] = {
        "a": np.arange(3, dtype=np.uint8),
        "b": np.arange(4, dtype=np.float32),
    }
    content = safetensors_numpy.save(tensors, metadata={"made by": "a test"})

    read = tensorfile.parse(np.frombuffer(b"\0" + content, np.uint8)[1:], where="x")

    assert np.array_equal(read["a"], tensors["a"])
    assert np.array_equal(read["b"], tensors["b"])
    assert read["b"].flags.aligned


@pytest.mark.parametrize(
    "file",
    [
        np.zeros(0, np.uint8),
        np.zeros(7, np.uint8),
        np.full(16, 255, np.uint8),
        np.frombuffer((2 << 20).to_bytes(8, "little") + b" " * (2 << 20), np.uint8),
        file_of(b"{"),
        file_of(b"\xff\xfe"),
        file_of(b"[" * 100_000),
        file_of(b"[]"),
        file_of(b'{"a":1,"a":2}'),
        file_of({"a": 1}),
        file_of({"a": {}}),
        file_of({"a": entry()}, b"123"),
        file_of({"a": entry()}, b"12345"),
        file_of({"a": entry(dtype="F99")}, b"1234"),
        file_of({"a": entry(dtype=["U8"])}, b"1234"),
        file_of({"a": entry(shape=[5])}, b"1234"),
        file_of({"a": entry(shape=[-4])}, b"1234"),
        file_of({"a": entry(shape=[True, 4])}, b"1234"),
        file_of({"a": entry(shape=[0], offsets=[0, 0])}),
        file_of({"a": entry(shape="4")}, b"1234"),
        file_of({"a": entry(offsets=[4, 0])}, b"1234"),
        file_of({"a": entry(offsets=[0.0, 4.0])}, b"1234"),
        file_of({"a": entry(offsets=[1, 5])}, b"12345"),
        file_of({"a": entry(), "b": entry()}, b"1234"),
        file_of({"a": entry(), "b": entry(offsets=[5, 9])}, b"123456789"),
    ],
)
def test_a_damaged_file_is_refused_by_name(file: np.ndarray) -> None:
    """Whatever the header says, no byte outside the data is read and the file is named."""
    with pytest.raises(CorruptionError, match=r"codec\.safetensors"):
        tensorfile.parse(file, where="codec.safetensors")


@pytest.mark.parametrize("content", [None, b""])
def test_a_missing_or_empty_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """Half a codec is damage, not an empty codec."""
    path = tmp_path / "codec.safetensors"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(CorruptionError, match="missing or empty"):
        tensorfile.map_file(path)


def test_a_file_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    """A folder in the file's place is not damage of its bytes."""
    with pytest.raises(StorageError, match="cannot be read"):
        tensorfile.map_file(tmp_path)
