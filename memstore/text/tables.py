"""Parquet files and Arrow IPC files or streams: rows to documents, a batch at a time.

Columns are the fields of a generic record: the id, text and title columns, and the others as
metadata. A table that is compressed as a whole is first unpacked into an unnamed temporary file,
at every opening, since its reader jumps about in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from memstore.errors import ConfigError, InvalidInputError, MemstoreError, StorageError
from memstore.text.files import (
    CHUNK_BYTES,
    MAX_RECORD_BYTES,
    InputFile,
    Observer,
    open_stored,
    open_stream,
    split_compression,
)
from memstore.text.records import (
    BadRecord,
    Record,
    RecordError,
    RecordFields,
    document_from_fields,
)
from memstore.types import Document

TABLE_LAYOUTS = ("parquet", "arrow")

BATCH_ROWS = 1024

_ARROW_FILE_MAGIC = b"ARROW1"


def read_rows(
    file: InputFile, fields: RecordFields, *, first_record: int, observe: Observer | None
) -> Iterator[Record]:
    """Read the rows of a table from `first_record` on; see `layouts.read_records`.

    The stored bytes are shown to `observe` in a reading of their own: the table's reader jumps
    about in the file.
    """
    with open_stored(file.path, observe=observe):
        pass
    batches = _parquet_batches if file.layout == "parquet" else _arrow_batches
    with _reading(file.name, file.layout):
        for first_row, batch in batches(file.path, first_record):
            skip = max(0, first_record - first_row)
            for number, row in enumerate(_rows(batch.slice(skip)), first_row + skip):
                yield Record(number, 0, _parse_row(row, fields, file.name, number))


def check_columns(file: InputFile, fields: RecordFields) -> None:
    """Refuse a table that lacks the id or text column, before any row is read.

    Raises:
        ConfigError: if a column is missing or there twice.
        InvalidInputError: if the file is not a table of its layout.
    """
    with _reading(file.name, file.layout):
        names = _column_names(file)
    id_name, text_name, _ = fields.resolve(names)
    for name, role in ((id_name, "id"), (text_name, "text")):
        if names.count(name) != 1:
            raise ConfigError(
                f"{file.name}: {names.count(name)} columns named '{name}' for the {role}, wanted"
                f" one; it has {', '.join(names)}; say which with {role}_field"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"{file.name}: two columns have the same name; rename one")


def _column_names(file: InputFile) -> list[str]:
    if file.layout == "parquet":
        import pyarrow.parquet as pq

        with _open_table(file.path) as source:
            return list(pq.read_schema(source).names)
    with _open_arrow(file.path) as (reader, _):
        return list(reader.schema.names)


@contextmanager
def _reading(name: str, layout: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except MemstoreError:
        raise
    except (pa.ArrowException, OSError) as err:
        raise InvalidInputError(
            f"{name}: cannot be read as {layout} ({err}); name its layout, or write the file again"
        ) from err


def _parquet_batches(path: Path, first_record: int) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as pq

    first_row = 1
    with _open_table(path) as source, pq.ParquetFile(source) as table:
        for group in range(table.num_row_groups):
            group_rows = table.metadata.row_group(group).num_rows
            if first_row + group_rows <= first_record:
                first_row += group_rows
                continue
            for batch in table.iter_batches(BATCH_ROWS, row_groups=[group]):
                yield first_row, batch
                first_row += batch.num_rows


def _arrow_batches(path: Path, first_record: int) -> Iterator[tuple[int, Any]]:
    first_row = 1
    with _open_arrow(path) as (_, batches):
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                piece = batch.slice(start, BATCH_ROWS)
                if first_row + piece.num_rows > first_record:
                    yield first_row, piece
                first_row += piece.num_rows


@contextmanager
def _open_arrow(path: Path) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Open either form of Arrow IPC: the reader and an iterator over its batches."""
    import pyarrow as pa

    with _open_table(path) as source:
        is_file = source.read(len(_ARROW_FILE_MAGIC)) == _ARROW_FILE_MAGIC
        source.seek(0)
        with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source) as reader:
            if is_file:
                yield reader, map(reader.get_batch, range(reader.num_record_batches))
            else:
                yield reader, iter(reader)


@contextmanager
def _open_table(path: Path) -> Iterator[Any]:
    """Open a table for a reader that jumps: an Arrow file over its bytes, unpacked if need be."""
    import pyarrow as pa

    if split_compression(path.name)[1] is None:
        with pa.OSFile(str(path)) as source:
            yield source
        return
    with tempfile.TemporaryFile() as unpacked:
        _unpack(path, unpacked)
        with pa.PythonFile(unpacked, mode="r") as source:
            yield source


def _unpack(path: Path, unpacked: BinaryIO) -> None:
    with open_stream(path) as stream:
        while piece := stream.read(CHUNK_BYTES):
            try:
                unpacked.write(piece)
            except OSError as err:
                raise StorageError(
                    f"{path}: no room to unpack it in {tempfile.gettempdir()}: {err.strerror};"
                    " free some, point TMPDIR elsewhere, or unpack the file yourself"
                ) from err
    unpacked.seek(0)


def _rows(batch: Any) -> Iterator[dict[str, object] | None]:
    """Yield rows as Python values; None for one that is not valid, most often text not in UTF-8.

    The check comes first: Arrow takes offsets on trust, and a damaged one reads foreign memory.
    """
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        if batch.num_rows == 1:
            yield None
        else:
            for row in range(batch.num_rows):
                yield from _rows(batch.slice(row, 1))
    else:
        yield from batch.to_pylist()


def _parse_row(
    row: dict[str, object] | None, fields: RecordFields, name: str, number: int
) -> Document | BadRecord:
    if row is None:
        return BadRecord(name, number, "invalid UTF-8 or damaged values in the row")
    try:
        document = document_from_fields(row, fields)
    except RecordError as err:
        return BadRecord(name, number, str(err))
    if len(document.text.encode()) > MAX_RECORD_BYTES:
        return BadRecord(name, number, f"longer than {MAX_RECORD_BYTES:,} bytes")
    return document
