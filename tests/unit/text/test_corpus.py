"""Which files make a corpus, and by which layout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memstore.errors import ConfigError, InvalidInputError, NotFoundError, StorageError
from memstore.text import open_corpus

Write = Callable[..., Path]

KILT = {"wikipedia_id": "1", "wikipedia_title": "T", "text": ["a"]}


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "content", "layout"),
    [
        ("a.jsonl", [{"id": "1", "text": "t"}], "jsonl"),
        ("a.ndjson", [{"id": "1", "text": "t"}], "jsonl"),
        ("a.jsonl", [{"_id": "1", "text": "t"}], "beir"),
        ("a.json", [KILT], "kilt"),
        ("a.jsonl", b'\xef\xbb\xbf\n{"_id": "1", "text": "t"}\n', "beir"),
        ("a.jsonl", b'broken\n\xff\n[1]\n{"_id": "1", "text": "t"}\n', "beir"),
        ("a.jsonl", b"broken", "jsonl"),
        ("a.jsonl", b"", "jsonl"),
        ("a.tsv", b"id\ttext\ttitle\n", "dpr"),
        ("a.tsv", b"0\ttext\n", "msmarco"),
        ("a.tsv", b"", "msmarco"),
        ("a.txt", b"text", "text"),
        ("a.MD", b"text", "text"),
    ],
)
def test_layout_is_told_from_suffix_and_first_record(
    write: Write, name: str, content: bytes | list[object], layout: str, compression: str
) -> None:
    """The first line that parses decides; broken ones before it do not."""
    corpus = open_corpus(write(name + compression, content))
    assert corpus.layout == layout
    assert [(file.name, file.layout) for file in corpus.files] == [(name + compression, layout)]


def test_folder_gives_all_its_files_by_name(write: Write, tmp_path: Path) -> None:
    """Compression and depth do not matter; files of no known suffix are left out."""
    for name in ("b.txt.gz", "sub/a.md", "a.txt", "picture.png", "c.txt.zst"):
        write(f"in/{name}", "text")
    corpus = open_corpus(tmp_path / "in")
    assert [file.name for file in corpus.files] == ["a.txt", "b.txt.gz", "c.txt.zst", "sub/a.md"]
    assert corpus.num_bytes == sum(file.path.stat().st_size for file in corpus.files)
    assert all(file.path.is_absolute() for file in corpus.files)


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst"])
def test_beir_folder_stands_for_its_corpus(write: Write, tmp_path: Path, name: str) -> None:
    """Queries and judgements beside it are no documents."""
    write(f"in/{name}", [{"_id": "1", "text": "t"}])
    write("in/queries.jsonl", [{"_id": "q", "text": "t"}])
    write("in/qrels/test.tsv", "query-id\tcorpus-id\tscore\n")
    corpus = open_corpus(tmp_path / "in")
    assert ([file.name for file in corpus.files], corpus.layout) == ([name], "beir")


def test_folder_layout_is_told_from_the_first_file_that_holds_anything(
    write: Write, tmp_path: Path
) -> None:
    """An empty first file says nothing."""
    write("in/a.jsonl", "")
    write("in/b.jsonl", [KILT])
    assert {file.layout for file in open_corpus(tmp_path / "in").files} == {"kilt"}


def test_mixed_layouts_are_refused_until_one_is_named(write: Write, tmp_path: Path) -> None:
    """The message names an example of each."""
    write("in/a.jsonl", [{"id": "1", "text": "t"}])
    write("in/README.md", "about")
    with pytest.raises(ConfigError, match=r"mixes layouts: README\.md, a\.jsonl;"):
        open_corpus(tmp_path / "in")
    assert [file.name for file in open_corpus(tmp_path / "in", layout="jsonl").files] == ["a.jsonl"]


def test_named_fields_make_json_lines_generic(write: Write) -> None:
    """Who names fields does not want the layout that has them fixed."""
    path = write("a.jsonl", [{"_id": "1", "text": "t"}])
    assert open_corpus(path, title_field="head").layout == "jsonl"


@pytest.mark.parametrize("name", ["a.tsv", "a.txt"])
def test_named_fields_are_refused_where_fields_are_fixed(write: Write, name: str) -> None:
    """An option that would do nothing is an error."""
    with pytest.raises(ConfigError, match="has fixed fields"):
        open_corpus(write(name, "1\ttext\n"), id_field="key")


def test_parquet_folder_is_one_corpus(tmp_path: Path) -> None:
    """Several tables of one kind are read in order of name."""
    for name in ("b.parquet", "a.parquet"):
        pq.write_table(pa.table({"id": [name], "text": ["t"]}), tmp_path / name)
    corpus = open_corpus(tmp_path)
    assert [file.name for file in corpus.files] == ["a.parquet", "b.parquet"]
    assert corpus.layout == "parquet"


def test_explicit_layout_reads_a_file_of_any_suffix(write: Write) -> None:
    """The layout option outweighs the suffix."""
    assert open_corpus(write("a.data", "1\ttext\n"), layout="msmarco").layout == "msmarco"


def test_missing_corpus_is_not_found(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(NotFoundError, match=r"gone: no such file or folder"):
        open_corpus(tmp_path / "gone")


def test_path_that_cannot_be_looked_at_is_a_storage_error(tmp_path: Path) -> None:
    """The system's reason is kept."""
    with pytest.raises(StorageError, match="File name too long"):
        open_corpus(tmp_path / ("x" * 300))


@pytest.mark.parametrize("layout", ["auto", "parquet"])
def test_folder_without_input_is_empty(write: Write, tmp_path: Path, layout: str) -> None:
    """The suffixes that would have counted are listed."""
    write("in/picture.png", "x")
    with pytest.raises(
        InvalidInputError, match=r"in: the corpus is empty: no file ends in .*\.parquet"
    ):
        open_corpus(tmp_path / "in", layout=layout)


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.gz"])
def test_unknown_suffix_is_refused(write: Write, name: str) -> None:
    """A compression suffix alone says nothing about the records."""
    with pytest.raises(ConfigError, match=r"unknown suffix, wanted one of \.jsonl"):
        open_corpus(write(name, "x"))


def test_unknown_layout_is_refused(write: Write) -> None:
    """The known ones are listed."""
    with pytest.raises(ConfigError, match="got 'csv', wanted one of auto, jsonl, beir, kilt"):
        open_corpus(write("a.txt", "x"), layout="csv")


def test_tsv_of_unknown_columns_is_refused(write: Write) -> None:
    """The count of columns is in the message, their content is not."""
    with pytest.raises(ConfigError, match=r"a\.tsv: 4 columns in the first line") as caught:
        open_corpus(write("a.tsv", "secret\ta\tb\tc\n"))
    assert "secret" not in str(caught.value)


def test_pipe_is_refused(tmp_path: Path) -> None:
    """A corpus is read more than once: a stream will not do."""
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        open_corpus(tmp_path / "a.jsonl")
