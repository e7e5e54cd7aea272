"""Parquet and Arrow tables as corpora."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from memstore.errors import ConfigError, InvalidInputError
from memstore.text import BadRecord, Partition, files, open_corpus, read_partition, scan
from memstore.text.files import MAX_RECORD_BYTES, InputFile
from memstore.text.layouts import read_records
from memstore.text.records import RecordFields
from memstore.types import Document


def write_parquet(table: Any, path: Path) -> None:
    """Small row groups, so that reading starts in the middle of the file."""
    pq.write_table(table, path, row_group_size=300)


def write_arrow_file(table: Any, path: Path) -> None:
    """Arrow IPC file in several batches."""
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)


def write_arrow_stream(table: Any, path: Path) -> None:
    """Arrow IPC stream."""
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=1500)


FORMS = [
    ("a.parquet", write_parquet),
    ("a.arrow", write_arrow_file),
    ("a.feather", write_arrow_file),
    ("a.arrow", write_arrow_stream),
]
each_form = pytest.mark.parametrize(("name", "write_table"), FORMS)


@each_form
def test_rows_become_documents_and_other_columns_metadata(
    tmp_path: Path, name: str, write_table: Callable[[Any, Path], None]
) -> None:
    """Values without a scalar JSON type become strings."""
    table = pa.table(
        {
            "_id": pa.array([1, 2], pa.int32()),
            "text": pa.array(["Grüße", ""], pa.large_string()),
            "title": pa.array(["T", None]).dictionary_encode(),
            "day": pa.array([datetime.date(2020, 1, 2), None]),
            "tags": [["x"], []],
            "raw": [b"\x01\xff", b""],
            "score": [0.5, None],
        }
    )
    write_table(table, tmp_path / name)
    scanned = scan(open_corpus(tmp_path / name))
    documents = [d for partition in scanned.partitions for d in read_partition(partition)]
    assert documents == [
        Document(
            "1", "Grüße", "T", {"day": "2020-01-02", "tags": '["x"]', "raw": "01ff", "score": 0.5}
        ),
        Document("2", "", "", {"day": None, "tags": "[]", "raw": "", "score": None}),
    ]
    assert scanned.metadata_columns == {
        "day": "string", "raw": "string", "score": "double", "tags": "string",
    }  # fmt: skip


@each_form
def test_reading_starts_at_any_row(
    tmp_path: Path, name: str, write_table: Callable[[Any, Path], None]
) -> None:
    """Row numbers are those of the file, wherever groups and batches end."""
    ids = [f"d{n}" for n in range(2500)]
    write_table(pa.table({"id": ids, "text": ids}), tmp_path / name)
    (file,) = open_corpus(tmp_path / name).files
    for first in (1, 300, 301, 1025, 2500, 2501):
        records = list(read_records(file, RecordFields(), first_record=first))
        assert [record.number for record in records] == list(range(first, 2501))
        assert [r.value.document_id for r in records if isinstance(r.value, Document)] == ids[
            first - 1 :
        ]


@each_form
def test_text_that_is_not_utf8_is_one_bad_record(
    tmp_path: Path, name: str, write_table: Callable[[Any, Path], None]
) -> None:
    """The rows around it are read."""
    text = pa.array([b"one", b"secret \xff", b"three"]).cast(pa.binary())
    broken = pa.StringArray.from_buffers(3, *text.buffers()[1:])
    write_table(pa.table({"id": ["1", "2", "3"], "text": broken}), tmp_path / name)
    (file,) = open_corpus(tmp_path / name).files
    values = [record.value for record in read_records(file, RecordFields())]
    assert values == [
        Document("1", "one"),
        BadRecord(name, 2, "invalid UTF-8 or damaged values in the row"),
        Document("3", "three"),
    ]


def test_bad_rows_have_the_reasons_of_other_layouts(tmp_path: Path) -> None:
    """Null ids, null texts and overlong texts are refused one by one."""
    table = pa.table({"id": [None, "b", "c"], "text": ["t", None, "x" * (MAX_RECORD_BYTES + 1)]})
    pq.write_table(table, tmp_path / "a.parquet")
    (file,) = open_corpus(tmp_path / "a.parquet").files
    values = [record.value for record in read_records(file, RecordFields())]
    assert [value.reason for value in values if isinstance(value, BadRecord)] == [
        "the id is null, wanted a string or an integer",
        "the text is null, wanted a string",
        f"longer than {MAX_RECORD_BYTES:,} bytes",
    ]


@each_form
def test_missing_column_is_refused_before_any_row_is_read(
    tmp_path: Path, name: str, write_table: Callable[[Any, Path], None]
) -> None:
    """The message lists the columns that are there."""
    write_table(pa.table({"key": ["a"], "text": ["t"]}), tmp_path / name)
    with pytest.raises(ConfigError, match=r"0 columns named '_id' for the id.*has key, text;"):
        open_corpus(tmp_path / name)
    assert open_corpus(tmp_path / name, id_field="key").fields.id == "key"


@pytest.mark.parametrize("names", [["id", "text", "text"], ["id", "text", "x", "x"]])
def test_columns_of_one_name_are_refused(tmp_path: Path, names: list[str]) -> None:
    """Which of the two is meant cannot be told."""
    table = pa.Table.from_arrays([pa.array(["a"])] * len(names), names=names)
    write_arrow_file(table, tmp_path / "a.arrow")
    with pytest.raises(ConfigError, match=r"columns named 'text'|two columns have the same name"):
        open_corpus(tmp_path / "a.arrow")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("content", [b"", b"no table", b"ARROW1\0\0 cut short"])
def test_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """Whatever pyarrow says comes with the file's name."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=rf"{name}: cannot be read as "):
        open_corpus(tmp_path / name)


def test_damaged_offsets_are_bad_records_not_foreign_memory(tmp_path: Path) -> None:
    """An offset beyond the buffer is caught by the check before any value is read."""
    offsets = pa.py_buffer(bytes(pa.array([0, 3, 1 << 30, 6], pa.int32()).buffers()[1])[:16])
    broken = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"onetwo"))
    batch = pa.record_batch([pa.array(["1", "2", "3"]), broken], names=["id", "text"])
    path = tmp_path / "a.arrow"
    with pa.ipc.new_file(path, batch.schema) as writer:
        writer.write_batch(batch)
    file = InputFile("a.arrow", path, path.stat().st_size, "arrow")
    values = [record.value for record in read_records(file, RecordFields())]
    assert values[0] == Document("1", "one")
    assert isinstance(values[1], BadRecord)


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@each_form
def test_compressed_table_is_read_like_the_plain_one(
    tmp_path: Path, name: str, write_table: Callable[[Any, Path], None], compression: str
) -> None:
    """The same cuts and documents from partitions that travelled; digests are of stored bytes."""
    ids = [f"d{n}" for n in range(2500)]
    plain = tmp_path / name
    write_table(pa.table({"id": ids, "text": ids, "n": range(2500)}), plain)
    squeeze = gzip.compress if compression == ".gz" else zstandard.compress
    compressed = tmp_path / f"{name}{compression}"
    compressed.write_bytes(squeeze(plain.read_bytes()))
    scanned = scan(open_corpus(compressed), partition_bytes=40_000)
    expected = scan(open_corpus(plain), partition_bytes=40_000)
    assert len(scanned.partitions) == len(expected.partitions) > 1
    assert scanned.metadata_columns == {"n": "int64"}
    assert scanned.files[0].sha256 == hashlib.sha256(compressed.read_bytes()).hexdigest()
    sent = json.loads(json.dumps([partition.to_dict() for partition in scanned.partitions]))
    for one, other in zip(sent, expected.partitions, strict=True):
        assert list(read_partition(Partition.from_dict(one))) == list(read_partition(other))


@pytest.mark.parametrize("fault", ["cut short", "no table inside"])
def test_damaged_compressed_table_is_refused(tmp_path: Path, fault: str) -> None:
    """Whether the damage is in the stream or inside it."""
    inside = b"no table"
    content = gzip.compress(inside)
    if fault == "cut short":
        content = content[:-9]
    (tmp_path / "a.parquet.gz").write_bytes(content)
    wanted = "damaged or truncated gzip" if fault == "cut short" else "cannot be read as parquet"
    with pytest.raises(InvalidInputError, match=wanted):
        open_corpus(tmp_path / "a.parquet.gz")


def test_compressed_table_that_is_a_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cap on what a stream may inflate to holds for tables too."""
    monkeypatch.setattr(files, "RATIO_FREE_BYTES", 1 << 20)
    (tmp_path / "a.arrow.zst").write_bytes(zstandard.compress(bytes(8 << 20)))
    with pytest.raises(InvalidInputError, match="stored bytes inflate to more than"):
        open_corpus(tmp_path / "a.arrow.zst")
