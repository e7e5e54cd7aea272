"""Partitions: every record once, wherever the cuts fall."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memstore.errors import InvalidInputError, NotFoundError
from memstore.text import BadRecord, Corpus, Partition, open_corpus, read_partition, scan
from memstore.text.layouts import read_records
from memstore.types import Document

Write = Callable[..., Path]

LINES = "".join(
    (json.dumps({"id": f"d{n}", "text": "é" * (n % 90), "n": n}) if n % 17 else "broken")
    + ("\r\n\n" if n % 5 == 0 else "\n")
    for n in range(1, 150)
)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    """One corpus of each kind of reading: seek, skip, rows, and many files."""
    import gzip

    import zstandard

    root = tmp_path_factory.mktemp("corpora")
    (root / "lines.jsonl").write_bytes(LINES.encode())
    (root / "lines.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    (root / "two").mkdir()
    (root / "two" / "a.jsonl").write_bytes(LINES[: LINES.index("\n", 2000) + 1].encode())
    rest = LINES[LINES.index("\n", 2000) + 1 :].encode()
    (root / "two" / "b.jsonl.zst").write_bytes(zstandard.compress(rest))
    texts = ["é" * (n % 90) for n in range(150)]
    table = pa.table({"id": [f"d{n}" for n in range(150)], "text": texts})
    pq.write_table(table, root / "rows.parquet", row_group_size=40)
    (root / "texts").mkdir()
    for n, text in enumerate(texts[:40]):
        (root / "texts" / f"{n}.txt").write_text(text)
    names = ("lines.jsonl", "lines.jsonl.gz", "two", "rows.parquet", "texts")
    return {name: open_corpus(root / name) for name in names}


def whole(corpus: Corpus) -> list[Document | BadRecord]:
    """Read a corpus without partitions."""
    return [
        record.value
        for file in corpus.files
        for record in read_records(file, corpus.fields)
        if record.value is not None
    ]


@pytest.mark.parametrize("name", ["lines.jsonl", "lines.jsonl.gz", "two", "rows.parquet", "texts"])
@settings(max_examples=15, deadline=None)
@given(partition_bytes=st.integers(1, 20_000))
def test_partitions_together_are_the_corpus(
    corpora: dict[str, Corpus], name: str, partition_bytes: int
) -> None:
    """Read after a trip through JSON, in order, they give each record once."""
    corpus = corpora[name]
    scanned = scan(corpus, partition_bytes=partition_bytes, max_bad_fraction=1)
    sent = json.loads(json.dumps([partition.to_dict() for partition in scanned.partitions]))
    partitions = [Partition.from_dict(value) for value in sent]
    assert tuple(partitions) == scanned.partitions
    assert [partition.index for partition in partitions] == list(range(len(partitions)))
    values = [value for partition in partitions for value in read_partition(partition)]
    assert values == whole(corpus)
    assert len(values) == scanned.num_documents + scanned.num_bad_records


def test_partition_is_closed_by_the_record_that_fills_it(corpora: dict[str, Corpus]) -> None:
    """A partition exceeds the size by one record at most, and none is empty."""
    scanned = scan(corpora["lines.jsonl"], partition_bytes=1000, max_bad_fraction=1)
    assert len(scanned.partitions) > 10
    assert max(partition.num_text_bytes for partition in scanned.partitions) < 1000 + 180
    assert all(list(read_partition(partition)) for partition in scanned.partitions)
    assert sum(p.num_text_bytes for p in scanned.partitions) == scanned.num_text_bytes


def test_small_text_files_share_a_partition(corpora: dict[str, Corpus]) -> None:
    """A folder of small files is not a folder of small jobs."""
    (partition,) = scan(corpora["texts"], partition_bytes=1 << 20).partitions
    assert len(partition.slices) == 40


def test_records_without_text_fill_partitions_too(write: Write) -> None:
    """A million empty documents are not one partition."""
    path = write("a.jsonl", [{"id": n, "text": "x" if n == 0 else ""} for n in range(100)])
    assert len(scan(open_corpus(path), partition_bytes=640).partitions) == 10


def test_cuts_are_the_same_plain_and_compressed(corpora: dict[str, Corpus]) -> None:
    """Only the byte offsets differ: a compressed file has none to seek to."""

    def cuts(name: str) -> list[tuple[int, int]]:
        scanned = scan(corpora[name], partition_bytes=2000, max_bad_fraction=1)
        return [(s.first_record, s.num_records) for p in scanned.partitions for s in p.slices]

    assert cuts("lines.jsonl") == cuts("lines.jsonl.gz")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_file_that_lost_records_since_the_scan_is_refused(write: Write, name: str) -> None:
    """A shorter file would silently make a smaller collection."""
    path = write(name, [{"id": n, "text": "t"} for n in range(9)])
    (partition,) = scan(open_corpus(path)).partitions
    write(name, [{"id": n, "text": "t"} for n in range(8)])
    with pytest.raises(InvalidInputError, match="changed since it was scanned: run the command"):
        list(read_partition(partition))


def test_file_of_the_same_length_with_fewer_records_is_refused(write: Write) -> None:
    """The count is looked at too."""
    path = write("a.jsonl", [{"id": n, "text": "t"} for n in range(9)])
    (partition,) = scan(open_corpus(path)).partitions
    content = path.read_text()
    path.write_text(content.replace("\n", " ", 1))
    with pytest.raises(InvalidInputError, match=r"8 records from number 1 on, wanted 9;"):
        list(read_partition(partition))


def test_file_that_grew_since_the_scan_is_refused(write: Write) -> None:
    """All its records are still there, but they are not those that were counted and digested."""
    path = write("a.jsonl", [{"id": n, "text": "t"} for n in range(9)])
    (partition,) = scan(open_corpus(path)).partitions
    write("a.jsonl", [{"id": n, "text": "other"} for n in range(9)])
    with pytest.raises(InvalidInputError, match="changed since it was scanned: run the command"):
        list(read_partition(partition))


def test_file_that_is_gone_since_the_scan_is_not_found(write: Write) -> None:
    """The path is told."""
    path = write("a.txt", "text")
    (partition,) = scan(open_corpus(path)).partitions
    path.unlink()
    with pytest.raises(NotFoundError, match=r"a\.txt: no such file"):
        list(read_partition(partition))
