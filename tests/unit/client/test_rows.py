"""Chunks of memories: cut, checked, put together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from memstore.client.plain import PlainCodec
from memstore.client.rows import (
    CODES,
    RowTable,
    TableShape,
    chunk_rows,
    dtype_from_proto,
    dtype_to_proto,
    numpy_dtype,
    split_rows,
)
from memstore.errors import ConfigError, CorruptionError, InvalidInputError
from memstore.v1 import memory_pb2 as pb

WIDTH = 1 << 16  # 8 rows a chunk
CODES_AT_THE_EDGE = np.array([0, 32767, 32768, 65535], dtype=np.uint16)


def _memories(*counts: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.choice(CODES_AT_THE_EDGE, (count, WIDTH)) for count in counts]


def _chunks(*counts: int) -> list[pb.MemoryChunk]:
    return list(chunk_rows(_memories(*counts), codec_id="c", row_bytes=2 * WIDTH))


def _table(num_rows: int) -> RowTable:
    return RowTable(TableShape(num_rows=num_rows, row_width=WIDTH, dtype=CODES, codec_id="c"))


@pytest.mark.parametrize("counts", [(1,), (7,), (8,), (9,), (3, 5), (5, 4), (20, 1, 3), (16, 16)])
def test_memories_come_out_as_they_went_in(counts: tuple[int, ...]):
    """Whatever the lengths, chunks are full but for the last, and rows keep their bits."""
    chunks = _chunks(*counts)
    table = _table(sum(counts))
    _add_all(table, [pb.MemoryChunk.FromString(chunk.SerializeToString()) for chunk in chunks])
    back = split_rows(table.finish(), counts)
    assert [chunk.shape[0] for chunk in chunks[:-1]] == [8] * (len(chunks) - 1)
    for got, wanted in zip(back, _memories(*counts), strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert not got.flags.writeable


def test_no_rows_are_no_chunks():
    """An answer without hits ends after its header."""
    assert _chunks() == []
    assert _table(0).finish().shape == (0, WIDTH)
    assert split_rows(_table(0).finish(), []) == []


def _add_all(table: RowTable, chunks: list[pb.MemoryChunk]) -> None:
    for chunk in chunks:
        table.add(chunk)


def _flip_data(chunk: pb.MemoryChunk) -> None:
    chunk.data = bytes([chunk.data[0] ^ 1]) + chunk.data[1:]


def _flip_checksum(chunk: pb.MemoryChunk) -> None:
    chunk.crc32c ^= 1


def _cut_data(chunk: pb.MemoryChunk) -> None:
    chunk.data = chunk.data[:-2]


def _other_codec(chunk: pb.MemoryChunk) -> None:
    chunk.codec_id = "d"


def _other_dtype(chunk: pb.MemoryChunk) -> None:
    chunk.dtype = pb.DTYPE_FLOAT16


def _other_place(chunk: pb.MemoryChunk) -> None:
    chunk.first_row += 1


def _other_width(chunk: pb.MemoryChunk) -> None:
    chunk.shape[1] //= 2


def _more_rows(chunk: pb.MemoryChunk) -> None:
    chunk.shape[0] *= 100


def _no_rows(chunk: pb.MemoryChunk) -> None:
    chunk.shape[0] = 0
    chunk.data = b""


def _one_axis(chunk: pb.MemoryChunk) -> None:
    del chunk.shape[1]


TAMPERS = [
    _flip_data,
    _flip_checksum,
    _cut_data,
    _other_codec,
    _other_dtype,
    _other_place,
    _other_width,
    _more_rows,
    _no_rows,
    _one_axis,
]


@pytest.mark.parametrize("tamper", TAMPERS)
@pytest.mark.parametrize("position", [0, 1])
def test_a_chunk_that_is_not_what_was_sent_is_refused(
    tamper: Callable[[pb.MemoryChunk], None], position: int
):
    """Every field of a chunk is checked, in the first chunk and in a later one."""
    chunks = _chunks(8, 3)
    tamper(chunks[position])
    with pytest.raises(CorruptionError):
        _add_all(_table(11), chunks)


def test_missing_doubled_and_swapped_chunks_are_refused():
    """The stream must be whole and in order."""
    first, second = _chunks(8, 3)
    short = _table(11)
    short.add(first)
    with pytest.raises(CorruptionError, match="at the end is 8, wanted 11"):
        short.finish()
    with pytest.raises(CorruptionError):
        short.add(first)
    with pytest.raises(CorruptionError):
        _table(11).add(second)


def test_the_receiver_chooses_the_class_of_a_misplaced_chunk():
    """At a server the same mistake is the caller's."""
    shape = TableShape(num_rows=3, row_width=WIDTH, dtype=CODES, codec_id="other")
    with pytest.raises(InvalidInputError):
        RowTable(shape, fault=InvalidInputError).add(_chunks(3)[0])


def test_spellings_have_names_and_numbers():
    """Unspecified means codes; what is unknown is refused."""
    for name in (CODES, "bfloat16", "float16", "float32"):
        assert dtype_from_proto(dtype_to_proto(name)) == name
    assert dtype_from_proto(pb.DTYPE_UNSPECIFIED) == CODES
    with pytest.raises(ConfigError):
        dtype_from_proto(99)
    with pytest.raises(ConfigError):
        numpy_dtype("int8")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_plain_codec_gives_back_the_vectors_that_came(dtype: str):
    """Decoding is a cast, into a new array or into the caller's."""
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
    codec = PlainCodec(dim=4, dtype=dtype)
    records = codec.encode(vectors)
    assert records.dtype == np.uint16
    assert records.shape == (3, codec.record_words)
    np.testing.assert_array_equal(codec.decode(records), vectors)
    assert codec.decode(records, dtype=dtype).astype(dtype).nbytes == records.nbytes
    out = np.full((3, 4), np.nan, dtype=np.float32)
    assert codec.decode(records, out=out) is out
    np.testing.assert_array_equal(out, vectors)
    assert codec.id == f"plain-{dtype}-4"
