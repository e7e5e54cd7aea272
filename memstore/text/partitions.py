"""Partitions: the pieces of a corpus that are encoded one by one, as values that travel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from memstore.errors import InvalidInputError
from memstore.text.files import InputFile
from memstore.text.layouts import read_records
from memstore.text.records import BadRecord, Record, RecordFields
from memstore.types import Document

RECORD_COST_BYTES = 64
"""What a record costs beside its text, so that a million empty ones are not one partition."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A run of records in one file.

    Attributes:
        file: where they lie.
        byte_offset: where the first one starts, in a line file that is not compressed; 0 elsewhere.
        first_record: its 1-based line or row number.
        num_records: how many lines or rows to read, blank lines and bad records included.
    """

    file: InputFile
    byte_offset: int
    first_record: int
    num_records: int


@dataclass(frozen=True, slots=True)
class Partition:
    """Some of a corpus: a few slices that together hold about `partition_bytes` of text.

    Attributes:
        index: place among the partitions of the corpus, from 0.
        fields: names of the id, text and title fields in generic layouts.
        slices: what to read, in order.
        num_text_bytes: UTF-8 length of its documents' texts.
    """

    index: int
    fields: RecordFields
    slices: tuple[Slice, ...]
    num_text_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        value = asdict(self)
        for piece in value["slices"]:
            piece["file"]["path"] = str(piece["file"]["path"])
        value["slices"] = list(value["slices"])
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Partition:
        """Build a partition from what `to_dict` returned."""
        slices = []
        for piece in value["slices"]:
            file = InputFile(**{**piece["file"], "path": Path(piece["file"]["path"])})
            slices.append(Slice(**{**piece, "file": file}))
        fields = RecordFields(**value["fields"])
        return cls(value["index"], fields, tuple(slices), value["num_text_bytes"])


def read_partition(partition: Partition) -> Iterator[Document | BadRecord]:
    """Read the documents of a partition, and the records that are none, in order.

    An uncompressed line file is read from the partition's first byte on; of a compressed one
    everything before it is decompressed and dropped, and a compressed table is unpacked whole, so
    a corpus of many gigabytes is best in several files or uncompressed.

    Raises:
        NotFoundError: if a file is gone.
        InvalidInputError: if a file is not the one that was scanned, or cannot be read any more.
        StorageError: if the disk fails.
    """
    for piece in partition.slices:
        _check_size(piece.file)
        num_read = 0
        for record in islice(_records_of(piece, partition.fields), piece.num_records):
            num_read += 1
            if record.value is not None:
                yield record.value
        if num_read < piece.num_records:
            raise InvalidInputError(
                f"{piece.file.path}: {num_read} records from number {piece.first_record} on, wanted"
                f" {piece.num_records}; the file has changed since it was scanned: run the command"
                " again"
            )


def _check_size(file: InputFile) -> None:
    try:
        num_bytes = file.path.stat().st_size
    except OSError:
        return  # opening it says why
    if num_bytes != file.num_bytes:
        raise InvalidInputError(
            f"{file.path}: {num_bytes:,} bytes, wanted {file.num_bytes:,}; the file has changed"
            " since it was scanned: run the command again"
        )


def _records_of(piece: Slice, fields: RecordFields) -> Iterator[Record]:
    return read_records(
        piece.file, fields, byte_offset=piece.byte_offset, first_record=piece.first_record
    )


class PartitionCutter:
    """Cuts a stream of records into partitions, by the size of their text.

    Args:
        partition_bytes: a partition is closed by the record that brings it to this size.
        fields: handed on to every partition.
    """

    def __init__(self, partition_bytes: int, fields: RecordFields) -> None:
        self._partition_bytes = partition_bytes
        self._fields = fields
        self._partitions: list[Partition] = []
        self._start()

    def _start(self) -> None:
        self._slices: list[Slice] = []
        self._first: Record | None = None  # of the slice that is open
        self._num_records = 0
        self._num_text_bytes = 0
        self._cost_bytes = 0

    def add(self, file: InputFile, record: Record) -> None:
        """Take the next record of `file`; `end_file` stands between two files."""
        if self._first is None:
            if record.value is None:
                return
            self._first = record
        self._num_records += 1
        if record.value is None:
            return
        self._cost_bytes += RECORD_COST_BYTES
        if isinstance(record.value, Document):
            num_text_bytes = len(record.value.text.encode())
            self._num_text_bytes += num_text_bytes
            self._cost_bytes += num_text_bytes + len(record.value.title.encode())
        if self._cost_bytes >= self._partition_bytes:
            self.end_file(file)
            self._close()

    def end_file(self, file: InputFile) -> None:
        """Close the slice of `file` that is open, if any."""
        if self._first is not None:
            first = self._first
            self._slices.append(Slice(file, first.byte_offset, first.number, self._num_records))
        self._first = None
        self._num_records = 0

    def _close(self) -> None:
        index = len(self._partitions)
        slices = tuple(self._slices)
        self._partitions.append(Partition(index, self._fields, slices, self._num_text_bytes))
        self._start()

    def result(self) -> tuple[Partition, ...]:
        """Return all partitions, in the order of the corpus."""
        if self._slices:
            self._close()
        return tuple(self._partitions)
