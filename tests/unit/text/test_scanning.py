"""The pass before encoding: figures, digests and refusals."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from memstore.errors import ConfigError, DuplicateIdError, InvalidInputError
from memstore.text import open_corpus, scan

Write = Callable[..., Path]


def records(ids: Sequence[object]) -> list[object]:
    """JSON lines of one text under each id."""
    return [{"id": document_id, "text": "some text"} for document_id in ids]


def test_scan_counts_digests_and_types(write: Write, tmp_path: Path) -> None:
    """Everything is told of the files as they lie on disk."""
    write("in/b.jsonl.gz", [{"id": "b", "text": "é", "year": 2.5, "x": 1}])
    write("in/a.jsonl", '{"id": "a", "text": "abc", "year": 1}\nbroken\n')
    scanned = scan(open_corpus(tmp_path / "in"))
    assert (scanned.num_documents, scanned.num_bad_records, scanned.num_text_bytes) == (2, 1, 5)
    assert scanned.metadata_columns == {"x": "int64", "year": "double"}
    for digest, name in zip(scanned.files, ["a.jsonl", "b.jsonl.gz"], strict=True):
        stored = (tmp_path / "in" / name).read_bytes()
        assert (digest.name, digest.num_bytes) == (name, len(stored))
        assert digest.sha256 == hashlib.sha256(stored).hexdigest()


def test_table_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    """Tables are digested like any file, though they are read out of order."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["1"], "text": ["t"]}), path)
    (digest,) = scan(open_corpus(path)).files
    assert digest.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_scan_depends_on_names_and_bytes_alone(write: Write, tmp_path: Path) -> None:
    """A copy elsewhere, written in another order, has the same cuts and digests."""
    for folder, names in (("one", "abc"), ("two", "cab")):
        for name in names:
            write(f"{folder}/{name}.txt", f"text of {name}" * 20)
    one, two = (
        scan(open_corpus(tmp_path / folder), partition_bytes=300) for folder in ("one", "two")
    )
    assert one.files == two.files
    for first, second in zip(one.partitions, two.partitions, strict=True):
        assert [s.file.name for s in first.slices] == [s.file.name for s in second.slices]


def test_progress_reports_stored_bytes_over_all_files(write: Write, tmp_path: Path) -> None:
    """The figure rises to the size of the corpus."""
    write("in/a.txt", os.urandom(1000).hex() * 2000)
    write("in/b.txt.gz", os.urandom(1000).hex())
    corpus = open_corpus(tmp_path / "in")
    seen: list[int] = []
    scan(corpus, progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) >= 2
    assert seen[-1] == corpus.num_bytes


@pytest.mark.parametrize("content", ["", "\n \n", '{"id": "a", "text": ""}\n'])
def test_corpus_without_text_is_empty(write: Write, content: str) -> None:
    """No records, blank lines and blank documents come to the same."""
    with pytest.raises(InvalidInputError, match=r"the corpus is empty: [01] documents, none with"):
        scan(open_corpus(write("a.jsonl", content)))


def test_empty_corpus_tells_of_its_bad_records(write: Write) -> None:
    """A wrong layout shows itself by the first reason."""
    with pytest.raises(InvalidInputError, match=r"1 bad records: a\.jsonl:1 no field 'text'"):
        scan(open_corpus(write("a.jsonl", [{"id": "a", "body": "t"}])))


def test_ten_bad_records_are_always_allowed(write: Write) -> None:
    """A small corpus with a few broken lines is worth encoding."""
    path = write("a.jsonl", '{"id": "a", "text": "t"}\n' + "broken\n" * 10)
    assert scan(open_corpus(path)).num_bad_records == 10


def test_too_many_bad_records_are_refused_with_the_first_three(write: Write) -> None:
    """File, line and reason of each, and how many there are."""
    path = write("a.jsonl", '{"id": "a", "text": "t"}\n' + "[]\n" * 11)
    with pytest.raises(InvalidInputError) as caught:
        scan(open_corpus(path))
    message = str(caught.value)
    assert message.startswith("11 of 12 records are bad, at most 10 are allowed; the first: ")
    assert message.count("the line is an array") == 3
    assert "a.jsonl:2 the line" in message
    assert "a.jsonl:4 the line" in message


def test_bad_fraction_raises_the_allowance(write: Write) -> None:
    """The fraction is of all records."""
    path = write("a.jsonl", '{"id": "a", "text": "t"}\n' + "broken\n" * 19)
    assert scan(open_corpus(path), max_bad_fraction=0.95).num_bad_records == 19
    with pytest.raises(InvalidInputError, match="at most 18 are allowed"):
        scan(open_corpus(path), max_bad_fraction=0.94)


def test_duplicate_ids_are_refused_with_both_places(write: Write, tmp_path: Path) -> None:
    """Across files, and a number equals the string of its digits."""
    write("in/a.jsonl", records(["x", 7, "y"]))
    write("in/b.jsonl", records(["z", "7"]))
    with pytest.raises(
        DuplicateIdError, match=r"^1 documents have .* '7' \(a\.jsonl:2 and b\.jsonl:2\);"
    ):
        scan(open_corpus(tmp_path / "in"))


def test_same_text_file_in_two_forms_is_a_duplicate(write: Write, tmp_path: Path) -> None:
    """The id of a text file leaves the compression out."""
    write("in/a.txt", "text")
    write("in/a.txt.gz", "text")
    with pytest.raises(DuplicateIdError, match=r"'a\.txt' \(a\.txt:1 and a\.txt\.gz:1\)"):
        scan(open_corpus(tmp_path / "in"))


def test_first_ten_of_many_duplicates_are_named(write: Write) -> None:
    """In the order in which they come back, and all are counted."""
    ids = [f"d{n:04}" for n in range(3000)]
    path = write("a.jsonl", records([*ids, *reversed(ids[:2000]), *ids[:5]]))
    with pytest.raises(DuplicateIdError) as caught:
        scan(open_corpus(path))
    message = str(caught.value)
    assert message.startswith("2,005 documents have the id of one before; the first: 'd1999' (")
    assert message.count(" and a.jsonl:") == 10
    assert "'d1990' (a.jsonl:1991 and a.jsonl:3010)" in message
    assert "'d1989'" not in message
    assert caught.value.details["num_duplicates"] == "2005"


def test_colliding_hashes_are_no_duplicates(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids with one hash are told apart by reading them again."""
    monkeypatch.setattr("memstore.text.scanning._hash", lambda document_id: len(document_id))
    assert scan(open_corpus(write("a.jsonl", records(["a", "b", "cc", "dd"])))).num_documents == 4
    with pytest.raises(DuplicateIdError, match=r"'b' \(b\.jsonl:2 and b\.jsonl:3\)"):
        scan(open_corpus(write("b.jsonl", records(["a", "b", "b", "c"]))))


@pytest.mark.parametrize("field", ["text_x y", "codes", "start"])
def test_metadata_field_that_cannot_be_a_column_is_refused(write: Write, field: str) -> None:
    """The field is named, before anything is encoded."""
    path = write("a.jsonl", [{"id": "a", "text": "t", field: 1}])
    with pytest.raises(ConfigError, match=f"metadata field '{field}'"):
        scan(open_corpus(path))


@pytest.mark.parametrize(
    "option", [{"partition_bytes": 0}, {"max_bad_fraction": -0.1}, {"max_bad_fraction": 1.1}]
)
def test_options_out_of_range_are_refused(write: Write, option: dict[str, float]) -> None:
    """The message starts with the option's name."""
    corpus = open_corpus(write("a.txt", "text"))
    with pytest.raises(ConfigError, match=f"^{next(iter(option))}: got "):
        scan(corpus, **option)  # type: ignore[arg-type]


def test_line_of_one_gigabyte_in_a_small_stream_is_refused_as_a_bomb(tmp_path: Path) -> None:
    """Compressed, such a line is a few kilobytes: the ratio stops it long before its end."""
    path = tmp_path / "a.jsonl.zst"
    packer = zstandard.ZstdCompressor().compressobj()
    piece = b"a" * (1 << 20)
    path.write_bytes(b"".join(packer.compress(piece) for _ in range(1 << 10)) + packer.flush())
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InvalidInputError, match=r"inflate to more than 67,108,864 \(over 200:1\)"):
        scan(open_corpus(path, layout="jsonl"))


def test_truncated_stream_is_refused_by_the_scan(write: Write) -> None:
    """Half a corpus is never encoded as if it were all."""
    path = write("a.jsonl.zst", records([os.urandom(8).hex() for _ in range(5000)]))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InvalidInputError, match=r"damaged or truncated zstd stream"):
        scan(open_corpus(path))
