"""The one pass over a corpus that comes before any encoding.

It digests the files, cuts partitions, infers metadata columns, counts what is there, and refuses
what should not be started: an empty corpus, one with too many bad records, or one that has an id
twice.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from memstore.errors import ConfigError, DuplicateIdError, InvalidInputError
from memstore.text.corpus import Corpus
from memstore.text.files import InputFile
from memstore.text.layouts import read_records
from memstore.text.metadata import ColumnTypes
from memstore.text.partitions import Partition, PartitionCutter
from memstore.text.records import BadRecord, Record
from memstore.types import Document

DEFAULT_PARTITION_BYTES = 1 << 20
MAX_BAD_FRACTION = 0.001
ALWAYS_ALLOWED_BAD = 10
"""Bad records that never stop a job, however small the corpus."""

_NAMED_BAD = 3
_NAMED_DUPLICATES = 10
_SUSPECTS = 100
_HASH_CHUNK = 1 << 16

Progress = Callable[[int], object]
"""Called now and then with the number of stored bytes read so far."""


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What an input file held: its name, and the length and sha256 (hex) of its stored bytes."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CorpusScan:
    """A corpus in figures, and the pieces to encode; the input's names and bytes decide all of it.

    Attributes:
        files: digests in the order of the corpus.
        partitions: every record of the corpus once, in order.
        num_documents: documents, those without text included.
        num_bad_records: records that `read_partition` will return as `BadRecord`.
        num_text_bytes: UTF-8 length of all texts.
        metadata_columns: type of each column: `"string"`, `"int64"`, `"double"` or `"bool"`.
    """

    files: tuple[FileDigest, ...]
    partitions: tuple[Partition, ...]
    num_documents: int
    num_bad_records: int
    num_text_bytes: int
    metadata_columns: dict[str, str]


def scan(
    corpus: Corpus,
    *,
    partition_bytes: int = DEFAULT_PARTITION_BYTES,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    progress: Progress | None = None,
) -> CorpusScan:
    """Read a corpus once from end to end, in bounded memory: about 16 bytes for each document.

    Args:
        corpus: what to read.
        partition_bytes: text in a partition, about; one document is never cut.
        max_bad_fraction: bad records allowed for each record; ten are always allowed.
        progress: told of the bytes read.

    Raises:
        ConfigError: if an option is out of range, or a metadata field cannot be a column.
        DuplicateIdError: if an id occurs twice; names the first ten.
        InvalidInputError: if there is no text, there are too many bad records, or a file cannot be
            read.
        NotFoundError, StorageError: if a file is gone, or the disk fails.
    """
    if partition_bytes < 1:
        raise ConfigError(f"partition_bytes: got {partition_bytes}, wanted 1 or more")
    if not 0 <= max_bad_fraction <= 1:
        raise ConfigError(f"max_bad_fraction: got {max_bad_fraction}, wanted 0 to 1")
    cutter = PartitionCutter(partition_bytes, corpus.fields)
    tally = _Tally()
    digests = []
    num_before = 0
    for file in corpus.files:
        digest = _Digest(num_before, progress)
        for record in read_records(file, corpus.fields, observe=digest.update):
            cutter.add(file, record)
            tally.add(record)
        cutter.end_file(file)
        digests.append(FileDigest(file.name, digest.num_bytes, digest.sha256.hexdigest()))
        num_before += digest.num_bytes
    partitions = cutter.result()
    num_text_bytes = sum(partition.num_text_bytes for partition in partitions)
    tally.check_bad(max_bad_fraction)
    tally.check_empty(num_text_bytes)
    _check_duplicates(corpus, tally.id_hashes)
    return CorpusScan(
        files=tuple(digests),
        partitions=partitions,
        num_documents=len(tally.id_hashes),
        num_bad_records=tally.num_bad,
        num_text_bytes=num_text_bytes,
        metadata_columns=tally.columns.result(),
    )


class _Digest:
    """Digests one file as it is read, and reports progress over all."""

    def __init__(self, num_before: int, progress: Progress | None) -> None:
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0
        self._num_before = num_before
        self._progress = progress

    def update(self, piece: memoryview) -> None:
        self.sha256.update(piece)
        self.num_bytes += len(piece)
        if self._progress is not None:
            self._progress(self._num_before + self.num_bytes)


class _Tally:
    """What the pass has seen, apart from the text."""

    def __init__(self) -> None:
        self.id_hashes = array("Q")
        self.columns = ColumnTypes()
        self.num_bad = 0
        self._first_bad: list[BadRecord] = []

    def add(self, record: Record) -> None:
        if isinstance(record.value, Document):
            self.id_hashes.append(_hash(record.value.document_id))
            self.columns.add(record.value.metadata)
        elif record.value is not None:
            self.num_bad += 1
            if len(self._first_bad) < _NAMED_BAD:
                self._first_bad.append(record.value)

    def check_bad(self, max_fraction: float) -> None:
        num_records = len(self.id_hashes) + self.num_bad
        allowed = max(ALWAYS_ALLOWED_BAD, int(max_fraction * num_records))
        if self.num_bad > allowed:
            raise InvalidInputError(
                f"{self.num_bad:,} of {num_records:,} records are bad, at most {allowed:,} are"
                f" allowed; the first: {self._reasons()}; mend them, choose another layout, or"
                " raise max_bad_fraction"
            )

    def check_empty(self, num_text_bytes: int) -> None:
        if num_text_bytes == 0:
            bad = f" and {self.num_bad} bad records: {self._reasons()}" if self.num_bad else ""
            raise InvalidInputError(
                f"the corpus is empty: {len(self.id_hashes)} documents, none with text{bad}"
            )

    def _reasons(self) -> str:
        return "; ".join(f"{bad.file}:{bad.record} {bad.reason}" for bad in self._first_bad)


def _hash(document_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(document_id.encode(), digest_size=8).digest(), "little")


def _check_duplicates(corpus: Corpus, id_hashes: array[int]) -> None:
    """Refuse ids that occur twice; a second pass tells them from hashes that merely collide."""
    hashes = np.frombuffer(id_hashes, dtype=np.uint64)  # (documents,)
    suspects = _first_repeats(hashes)
    if not suspects:
        return
    found = _resolve(corpus, suspects)
    if found:
        num_repeated = len(hashes) - len(np.unique(hashes))
        raise DuplicateIdError(
            f"{num_repeated:,} documents have the id of one before; the first: {'; '.join(found)};"
            " make the ids unique",
            num_duplicates=num_repeated,
        )


def _first_repeats(hashes: np.ndarray) -> set[int]:
    """Return the hashes that come back first, at most `_SUSPECTS`: collisions are far fewer."""
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    is_seen = np.zeros(len(repeated), dtype=bool)
    suspects: set[int] = set()
    for start in range(0, len(hashes) if len(repeated) else 0, _HASH_CHUNK):
        chunk = hashes[start : start + _HASH_CHUNK]
        for value in chunk[np.isin(chunk, repeated)].tolist():
            place = int(np.searchsorted(repeated, value))
            if is_seen[place]:
                suspects.add(value)
                if len(suspects) == _SUSPECTS:
                    return suspects
            is_seen[place] = True
    return suspects


def _resolve(corpus: Corpus, suspects: set[int]) -> list[str]:
    """Read the corpus again for suspect hashes; describe the first ten ids that occur twice."""
    first_places: dict[str, str] = {}
    found: dict[str, str] = {}
    for file, record in _all_records(corpus):
        if not isinstance(record.value, Document):
            continue
        document_id = record.value.document_id
        if _hash(document_id) not in suspects:
            continue
        place = f"{file.name}:{record.number}"
        first = first_places.setdefault(document_id, place)
        if first != place and document_id not in found:
            found[document_id] = f"'{document_id}' ({first} and {place})"
            if len(found) == _NAMED_DUPLICATES:
                break
    return list(found.values())


def _all_records(corpus: Corpus) -> Iterator[tuple[InputFile, Record]]:
    for file in corpus.files:
        for record in read_records(file, corpus.fields):
            yield file, record
