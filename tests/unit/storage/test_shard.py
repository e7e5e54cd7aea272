"""Shards: what goes in comes out, and damage is found before it is believed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memstore.errors import ConfigError, CorruptionError
from memstore.storage import ShardContent, ShardEntry
from memstore.storage.dictionary import dictionary_digest
from memstore.storage.shard import Shard, build_shard, codes_crc32c
from memstore.types import Metadata, Passage

METADATA: list[Metadata] = [{"year": 1999, "lang": "de"}, {}, {"lang": "", "year": None}]
LENGTHS = [3, 1, 4]
COLUMNS = {"year": "int64", "lang": "string"}


class _Bytes:
    """An `ObjectReader` over bytes at hand."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def num_bytes(self) -> int:
        return len(self._data)

    def read(self, start: int, length: int) -> memoryview:
        return memoryview(self._data)[start : start + length]


def _passages() -> list[Passage]:
    return [
        Passage(
            document_id=f"dög {number}",
            number=7 * number,
            title="" if number else "Títle",
            text="" if number == 1 else f"text {number} ünï 🐟",
            start=number,
            end=number + 5,
            num_tokens=length,
            metadata=metadata,
        )
        for number, (length, metadata) in enumerate(zip(LENGTHS, METADATA, strict=True))
    ]


def _content(**changes: Any) -> ShardContent:
    rng = np.random.default_rng(0)
    content = ShardContent(
        passages=_passages(),
        embeddings=rng.standard_normal((3, 8)).astype(np.float32),
        records=rng.integers(0, 65_536, (sum(LENGTHS), 2), dtype=np.uint16),
        metadata_columns=COLUMNS,
    )
    return dataclasses.replace(content, **changes)


def _open(data: bytes, entry: ShardEntry, dictionary: bytes = b"", words: int = 2) -> Shard:
    return Shard(entry, words, lambda: _Bytes(data), dictionary)


def _flip(data: bytes, position: int) -> bytes:
    damaged = bytearray(data)
    damaged[position] ^= 1
    return bytes(damaged)


def test_passages_come_back() -> None:
    """Text, title, span and metadata; a null is no metadata."""
    shard = _open(*build_shard(_content(), "name"))

    wanted = [
        dataclasses.replace(
            passage, metadata={k: v for k, v in passage.metadata.items() if v is not None}
        )
        for passage in _passages()
    ]
    assert [shard.passage(row) for row in range(3)] == wanted


def test_records_come_back() -> None:
    """Bit for bit, as a read-only view."""
    content = _content()
    shard = _open(*build_shard(content, "name"))

    records = [shard.records(row) for row in range(3)]

    assert [len(record) for record in records] == LENGTHS
    assert np.array_equal(np.concatenate(records), content.records)
    assert all(record.dtype == np.uint16 for record in records)
    assert not any(record.flags.writeable for record in records)


def test_embeddings_come_back_as_float16() -> None:
    """A view of the file."""
    content = _content()
    embeddings = _open(*build_shard(content, "name")).embeddings()

    assert np.array_equal(embeddings, content.embeddings.astype(np.float16))
    assert not embeddings.flags.owndata


def test_the_entry_describes_the_bytes() -> None:
    """Length, counts, and where the codes lie."""
    content = _content()

    data, entry = build_shard(content, "name")

    assert (entry.num_bytes, entry.num_passages, entry.num_tokens) == (len(data), 3, 8)
    codes = data[entry.codes_offset : entry.codes_offset + entry.codes_bytes]
    assert codes == content.records.tobytes()
    assert entry.shard_id == f"name-{entry.sha256[:16]}"


@pytest.mark.parametrize("num_columns", range(0, 24, 3))
def test_the_codes_are_aligned(num_columns: int) -> None:
    """To 64 bytes, however long the head is."""
    columns = {f"column_{number}": "bool" for number in range(num_columns)}

    _, entry = build_shard(_content(metadata_columns=columns), "name")

    assert entry.codes_offset % 64 == 0


def test_a_dictionary_is_used_and_named() -> None:
    """Texts that it knows get shorter, and are read with it."""
    text = " ".join(str(number**2) for number in range(100))
    passages = [dataclasses.replace(passage, text=text) for passage in _passages()]
    dictionary = text.encode()
    plain, plain_entry = build_shard(_content(passages=passages), "name")
    data, entry = build_shard(_content(passages=passages, dictionary=dictionary), "name")

    assert (plain_entry.dictionary, entry.dictionary) == ("", dictionary_digest(dictionary))
    assert len(data) < len(plain)
    assert _open(data, entry, dictionary).passage(0).text == text


def test_the_same_content_gives_the_same_bytes() -> None:
    """So work that is done again meets its own object."""
    assert build_shard(_content(), "name") == build_shard(_content(), "name")


def test_another_content_has_another_name() -> None:
    """One changed code is enough."""
    content = _content()
    changed = content.records.copy()
    changed[-1, -1] ^= 1

    _, entry = build_shard(content, "name")
    _, other = build_shard(dataclasses.replace(content, records=changed), "name")

    assert entry.shard_id != other.shard_id
    assert entry.head_sha256 != other.head_sha256, "the crc of the codes stands in the head"


def test_a_shard_of_another_length_is_refused() -> None:
    """At the first touch."""
    data, entry = build_shard(_content(), "name")

    with pytest.raises(CorruptionError, match=f"{len(data) - 1} bytes, the manifest says"):
        _ = _open(data[:-1], entry).columns


def test_a_damaged_head_is_refused_before_arrow_sees_it() -> None:
    """Every byte before and after the codes, one after another."""
    data, entry = build_shard(_content(), "name")
    codes = range(entry.codes_offset, entry.codes_offset + entry.codes_bytes)
    for position in set(range(len(data))) - set(codes):
        with pytest.raises(CorruptionError, match="its columns do not match their sha256"):
            _ = _open(_flip(data, position), entry).columns


def test_damaged_codes_are_refused() -> None:
    """Each byte of a passage's codes is checked at every read; other passages stay readable."""
    data, entry = build_shard(_content(), "name")
    first = range(entry.codes_offset, entry.codes_offset + 4 * LENGTHS[0])
    for position in first:
        shard = _open(_flip(data, position), entry)
        with pytest.raises(CorruptionError, match=f"{entry.key}: the codes of row 0 at byte"):
            shard.records(0)
        assert len(shard.records(1)) == LENGTHS[1]


def test_codes_of_another_passage_do_not_pass() -> None:
    """The checksum is bound to the passage's id."""
    records = np.zeros((2, 2), dtype=np.uint16)

    assert codes_crc32c("a#0", records) != codes_crc32c("a#1", records)


def test_records_of_another_width_are_refused() -> None:
    """The file and the manifest must agree on W."""
    data, entry = build_shard(_content(), "name")

    with pytest.raises(CorruptionError, match="records of 2 words, the manifest says 4"):
        _ = _open(data, entry, words=4).columns


def test_verify_reads_every_byte() -> None:
    """Damage anywhere is found, in codes that nobody has read too."""
    data, entry = build_shard(_content(), "name")

    _open(data, entry).verify()
    for position in range(0, len(data), 7):
        with pytest.raises(CorruptionError, match=r"sha256 .*, the manifest says"):
            _open(_flip(data, position), entry).verify()


Change = Callable[[Passage], Passage]


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("number", lambda passage: dataclasses.replace(passage, number=2**31)),
        ("start", lambda passage: dataclasses.replace(passage, start=-(2**40))),
        ("title", lambda passage: dataclasses.replace(passage, title="\ud800")),
        ("text", lambda passage: dataclasses.replace(passage, text="a\udfff")),
        ("passage_id", lambda passage: dataclasses.replace(passage, document_id="\ud800")),
        ("year", lambda passage: dataclasses.replace(passage, metadata={"year": 2**63})),
        ("lang", lambda passage: dataclasses.replace(passage, metadata={"lang": "\ud800"})),
    ],
)
def test_a_value_that_cannot_be_stored_is_named(column: str, change: Change) -> None:
    """Numbers too large for their column and text that is not Unicode."""
    first, *others = _passages()

    with pytest.raises(ConfigError, match=f"column '{column}'"):
        build_shard(_content(passages=[change(first), *others]), "name")


def test_plain_arrow_reads_the_file() -> None:
    """No tool of ours is needed: all columns, the codes as signed words of the same bits."""
    content = _content()
    data, _ = build_shard(content, "name")

    table = pa.ipc.open_file(data).read_all()

    table.validate(full=True)
    codes = np.array([word for row in table.column("codes").to_pylist() for word in row], np.int16)
    assert np.array_equal(codes.view(np.uint16), content.records)
