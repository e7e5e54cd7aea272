"""A shard: one Arrow IPC file with one record batch, whose last column is the codes
(docs/format.md).

Writing gives the bytes and the `ShardEntry` that describes them. Reading trusts nothing: the head
(all but the codes) is checked against its sha256 before Arrow sees it, and each passage's codes
against their crc32c on every read.

Does not: decode records; it only knows that one is W words wide.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import google_crc32c
import numpy as np
import pyarrow as pa
import zstandard

from memstore.errors import ConfigError, CorruptionError
from memstore.storage.dictionary import dictionary_digest
from memstore.storage.manifest import ShardEntry
from memstore.storage.objects import ObjectReader
from memstore.storage.schema import shard_schema
from memstore.types import Passage, canonical_json

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class ShardContent:
    """What goes into a shard.

    Attributes:
        passages: N passages; `num_tokens` of each equals its rows in `records`.
        embeddings: (N, E) floats, stored as float16.
        records: (sum of num_tokens, W) uint16, passage after passage.
        metadata_columns: column name to type name.
        dictionary: zstd dictionary for the texts; empty: none.
    """

    passages: Sequence[Passage]
    embeddings: np.ndarray
    records: np.ndarray
    metadata_columns: Mapping[str, str]
    dictionary: bytes = b""


def build_shard(content: ShardContent, name: str) -> tuple[bytes, ShardEntry]:
    """Return the bytes of a shard and its entry.

    The same content gives the same bytes, and the shard's id is `<name>-<digest>`: a repeated write
    meets its own object, a differing one never meets another's.
    """
    batch = _record_batch(content)
    padding = 0
    # pyarrow cannot align a buffer: pad the schema's metadata until the codes fall right.
    while True:
        data = _serialize(batch, name, content.dictionary, padding)
        codes_offset = _codes_offset(data)
        if codes_offset % _ALIGNMENT == 0:
            break
        padding += _ALIGNMENT - codes_offset % _ALIGNMENT
    codes_bytes = content.records.nbytes
    sha256 = hashlib.sha256(data).hexdigest()
    return data, ShardEntry(
        shard_id=f"{name}-{sha256[:16]}",
        num_bytes=len(data),
        sha256=sha256,
        head_sha256=_head_sha256(memoryview(data), codes_offset, codes_bytes),
        codes_offset=codes_offset,
        codes_bytes=codes_bytes,
        num_passages=len(content.passages),
        num_tokens=len(content.records),
        dictionary=dictionary_digest(content.dictionary),
    )


def _record_batch(content: ShardContent) -> pa.RecordBatch:
    passages = content.passages
    records = np.ascontiguousarray(content.records, dtype="<u2")
    embeddings = np.ascontiguousarray(content.embeddings, dtype="<f2")
    schema = shard_schema(embeddings.shape[1], records.shape[1], content.metadata_columns)
    offsets = np.zeros(len(passages) + 1, dtype=np.int32)
    np.cumsum([passage.num_tokens for passage in passages], out=offsets[1:])
    compressor = zstandard.ZstdCompressor(
        level=6,
        dict_data=zstandard.ZstdCompressionDict(content.dictionary) if content.dictionary else None,
    )
    columns: dict[str, list[object]] = {
        "passage_id": [p.passage_id for p in passages],
        "document_id": [p.document_id for p in passages],
        "number": [p.number for p in passages],
        "title": [p.title for p in passages],
        "start": [p.start for p in passages],
        "end": [p.end for p in passages],
        "num_tokens": [p.num_tokens for p in passages],
        "text": [compressor.compress(_utf8(p.text, "text")) for p in passages],
        "crc32c": [
            codes_crc32c(p.passage_id, records[offsets[i] : offsets[i + 1]])
            for i, p in enumerate(passages)
        ],
        **{name: [p.metadata.get(name) for p in passages] for name in content.metadata_columns},
    }
    arrays = {
        field.name: _column(field, columns[field.name]) for field in schema if field.name in columns
    }
    embedding_type, codes_type = schema.field("embedding").type, schema.field("codes").type
    arrays["embedding"] = pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.reshape(-1)), type=embedding_type
    )
    words = pa.array(records.reshape(-1).view("<i2"))  # bit patterns: a view, never a cast
    arrays["codes"] = pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.FixedSizeListArray.from_arrays(words, type=codes_type.value_type),
        type=codes_type,
    )
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _column(field: pa.Field, values: list[object]) -> pa.Array:
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as err:
        raise ConfigError(
            f"column {field.name!r}: a value cannot be stored as {field.type}; mend it",
            column=field.name,
        ) from err


def _utf8(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as err:
        raise ConfigError(
            f"column {name!r}: character {err.start} is a lone surrogate, which UTF-8 cannot hold; "
            "mend it",
            column=name,
        ) from None


def _serialize(batch: pa.RecordBatch, name: str, dictionary: bytes, padding: int) -> bytes:
    about = {"format_version": 1, "name": name, "dictionary": dictionary_digest(dictionary)}
    metadata = {"memstore": canonical_json(about), "padding": b" " * padding}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema.with_metadata(metadata)) as writer:
        writer.write_batch(batch.replace_schema_metadata(metadata))
    return bytes(sink.getvalue())


def _codes_offset(data: bytes) -> int:
    buffer = pa.py_buffer(data)
    codes = pa.ipc.open_file(buffer).get_batch(0).column("codes")
    return int(codes.values.values.buffers()[1].address - buffer.address)


def _head_sha256(data: memoryview, codes_offset: int, codes_bytes: int) -> str:
    digest = hashlib.sha256(data[:codes_offset])
    digest.update(data[codes_offset + codes_bytes :])
    return digest.hexdigest()


def codes_crc32c(passage_id: str, records: np.ndarray) -> int:
    """Return the crc32c of a passage's codes, bound to its id so that codes of another passage
    never pass for it.
    """
    data = records.reshape(-1).view(np.uint8)
    data.flags.writeable = False  # the extension takes read-only buffers alone
    return int(google_crc32c.extend(google_crc32c.value(_utf8(passage_id, "passage_id")), data))


class Shard:
    """A stored shard, read by row.

    Raises (from every method): CorruptionError, if the bytes are not those that the entry
    describes.
    """

    def __init__(
        self,
        entry: ShardEntry,
        record_words: int,
        open_reader: Callable[[], ObjectReader],
        dictionary: bytes,
    ) -> None:
        self.entry = entry
        self._open_reader = open_reader
        self._opened: ObjectReader | None = None
        self._record_words = record_words
        self._dictionary = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        self._lock = threading.Lock()
        self._columns: pa.RecordBatch | None = None
        self._token_offsets = np.zeros(0, dtype=np.int32)

    @property
    def columns(self) -> pa.RecordBatch:
        """All columns but the codes; the head is verified at the first touch."""
        if self._columns is None:
            with self._lock:
                if self._columns is None:
                    self._columns = self._read_head()
        return self._columns

    def embeddings(self) -> np.ndarray:
        """Return the retrieval vectors: (N, E) float16, a view of the file."""
        column = self.columns.column("embedding")
        values: np.ndarray = column.flatten().to_numpy(zero_copy_only=True)
        return values.reshape(len(column), -1)

    def passage(self, row: int) -> Passage:
        """Return a row's passage with its text and metadata."""
        value = {name: self.columns.column(name)[row].as_py() for name in self._passage_columns}
        decompressor = zstandard.ZstdDecompressor(dict_data=self._dictionary)
        return Passage(
            document_id=value.pop("document_id"),
            number=value.pop("number"),
            title=value.pop("title"),
            start=value.pop("start"),
            end=value.pop("end"),
            num_tokens=value.pop("num_tokens"),
            text=decompressor.decompress(value.pop("text")).decode(),
            metadata={name: item for name, item in value.items() if item is not None},
        )

    def records(self, row: int) -> np.ndarray:
        """Return a row's records: (T, W) uint16, a read-only view of the file, checked against its
        crc32c.
        """
        columns = self.columns
        first, last = int(self._token_offsets[row]), int(self._token_offsets[row + 1])
        row_bytes = 2 * self._record_words
        start = self.entry.codes_offset + first * row_bytes
        data = np.frombuffer(self._reader().read(start, (last - first) * row_bytes), dtype="<u2")
        passage_id = columns.column("passage_id")[row].as_py()
        if codes_crc32c(passage_id, data) != columns.column("crc32c")[row].as_py():
            raise self._corrupt(f"the codes of row {row} at byte {start} do not match their crc32c")
        return data.reshape(last - first, self._record_words)

    def verify(self) -> None:
        """Check every byte of the object against the manifest's sha256."""
        found = hashlib.sha256(self._reader().read(0, self.entry.num_bytes)).hexdigest()
        if found != self.entry.sha256:
            raise self._corrupt(
                f"sha256 {found[:16]}…, the manifest says {self.entry.sha256[:16]}…"
            )

    @property
    def _passage_columns(self) -> list[str]:
        return [
            name
            for name in self.columns.schema.names
            if name not in {"passage_id", "embedding", "crc32c"}
        ]

    def _reader(self) -> ObjectReader:
        """Open the object at the first touch; a collection may name more shards than a process may
        have files open.
        """
        if self._opened is None:
            reader = self._open_reader()
            if reader.num_bytes != self.entry.num_bytes:
                raise self._corrupt(
                    f"{reader.num_bytes} bytes, the manifest says {self.entry.num_bytes}"
                )
            self._opened = reader
        return self._opened

    def _read_head(self) -> pa.RecordBatch:
        entry = self.entry
        data = self._reader().read(0, entry.num_bytes)
        if _head_sha256(data, entry.codes_offset, entry.codes_bytes) != entry.head_sha256:
            raise self._corrupt("its columns do not match their sha256")
        batch = pa.ipc.open_file(pa.py_buffer(data)).get_batch(0)
        codes = batch.column("codes")
        offsets: np.ndarray = codes.offsets.to_numpy(zero_copy_only=True)
        words = codes.type.value_type.list_size
        if words != self._record_words or int(offsets[-1]) * words * 2 != entry.codes_bytes:
            raise self._corrupt(f"records of {words} words, the manifest says {self._record_words}")
        self._token_offsets = offsets
        return batch.drop_columns(["codes"])

    def _corrupt(self, what: str) -> CorruptionError:
        return CorruptionError(
            f"{self.entry.key}: {what}; restore the object from a copy", object=self.entry.key
        )
