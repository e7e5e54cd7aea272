"""Queries, judgements and run files: every layout, and what is said of one that is broken."""

from __future__ import annotations

import errno
import gzip
from pathlib import Path

import ir_measures
import pytest

from memstore.errors import (
    ConfigError,
    DuplicateIdError,
    MemstoreError,
    NotFoundError,
    StorageError,
)
from memstore.evaluation import check_run_file, read_qrels, read_queries, write_run

BEIR = '{"_id": "q1", "text": "of wings", "metadata": {}}\n\n{"_id": 2, "text": " of heat "}\n'
TABS = "q1\tof wings\r\n2\tof heat\r\n"
CRANFIELD = (
    "<?xml version='1.0'?>\r\n<xml>\r\n<top>\r\n<num> q1</num>\r\n<title>\r\nof\r\nwings\r\n"
    "</title>\r\n</top>\r\n<top><num>2</num><title>of heat</title></top></xml>"
)
CLASSIC = (
    "\n<top>\n<num> Number: q1\n<title> Topic: of wings\n<desc> Description:\nlong\n</top>\n"
    "<top>\n<num> Number: 2\n<title> of heat\n</top>\n"
)


def _write(folder: Path, text: str, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("text", [BEIR, TABS, CRANFIELD, CLASSIC, "\ufeff" + TABS])
def test_queries_are_told_by_their_content(text: str, tmp_path: Path) -> None:
    """BEIR, tabs, TREC topics with closed tags and with open ones; the name does not matter."""
    assert read_queries(_write(tmp_path, text)) == {"q1": "of wings", "2": "of heat"}


def test_queries_may_be_counted(tmp_path: Path) -> None:
    """As the judgements of Cranfield count them."""
    path = _write(
        tmp_path, "<top><num>1</num><title>a</title></top><top><num>4</num><title>b</top>"
    )

    assert read_queries(path, by_position=True) == {"1": "a", "2": "b"}


def test_entities_are_characters(tmp_path: Path) -> None:
    """In topics only."""
    path = _write(tmp_path, "<top><num>1</num><title>R&amp;D</title></top>")

    assert read_queries(path) == {"1": "R&D"}


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    """As corpora are."""
    path = tmp_path / "queries.jsonl.gz"
    path.write_bytes(gzip.compress(BEIR.encode()))

    assert list(read_queries(path)) == ["q1", "2"]


@pytest.mark.parametrize(
    ("text", "error", "what"),
    [
        ("", ConfigError, "the file is empty"),
        (" \n\n", ConfigError, "the file is empty"),
        ('{"_id": "1", "text": "a"}\n{"_id": "2"}', ConfigError, "line 2: wanted the fields"),
        ('{"_id": "1", "text": "a"}\n{"_id": ', ConfigError, "line 2: broken JSON at column"),
        ('{"_id": "1", "text": "a"}\n[1]', ConfigError, "line 2: wanted a JSON object"),
        ("1\ta\n2 b", ConfigError, "line 2: no tab"),
        ("1\ta\n2\t ", ConfigError, "line 2: a query without id or text"),
        ("1\ta\n1\tb", DuplicateIdError, "line 2: the query id '1' comes again"),
        (
            "<top><num>1</num><title>a</title></top>\n<top><num>2</num>\n</top>",
            ConfigError,
            "line 2",
        ),
        ("<doc></doc>", ConfigError, "no <top>"),
    ],
)
def test_bad_queries_are_named_by_line(
    text: str, error: type[MemstoreError], what: str, tmp_path: Path
) -> None:
    """The file, the line, what is wrong."""
    with pytest.raises(error, match=what) as caught:
        read_queries(_write(tmp_path, text))
    assert str(tmp_path / "file") in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """With the place."""
    path = tmp_path / "file"
    path.write_bytes(b"1\t\xff")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 3"):
        read_queries(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    """Not to be empty."""
    with pytest.raises(NotFoundError, match="no such file"):
        read_qrels(tmp_path / "no")


@pytest.mark.parametrize(
    "text",
    [
        "1 0 a 1\r\n1 0 b -1\r\n\r\n2\t0\tc\t3\r\n",
        "query-id\tcorpus-id\tscore\n1\ta\t1\n1\tb\t-1\n2\tc\t3\n",
        "1 0 a 1\n1 0 a 1\n1 0 b -1\n2 0 c 3\n",
    ],
)
def test_judgements_are_read_from_either_layout(text: str, tmp_path: Path) -> None:
    """TREC's four columns, BEIR's three after their names; the same judgement may come again."""
    assert read_qrels(_write(tmp_path, text)) == {"1": {"a": 1, "b": -1}, "2": {"c": 3}}


@pytest.mark.parametrize(
    ("text", "error", "what"),
    [
        ("", ConfigError, "the file is empty"),
        ("query-id\tcorpus-id\tscore\n", ConfigError, "no judgement"),
        ("1 0 a 1\n1 a 1\n", ConfigError, "line 2: 3 columns, wanted 4"),
        ("query-id\tcorpus-id\tscore\n1 0 a 1\n", ConfigError, "line 2: 1 columns, wanted 3"),
        ("1 0 a 1\n1 0 b 0.5\n", ConfigError, "line 2: the relevance is '0.5'"),
        ("1 0 a 1\n1 0 a 0\n", DuplicateIdError, "line 2: 'a' is judged again for query '1'"),
    ],
)
def test_bad_judgements_are_named_by_line(
    text: str, error: type[MemstoreError], what: str, tmp_path: Path
) -> None:
    """The file, the line, what is wrong."""
    with pytest.raises(error, match=what):
        read_qrels(_write(tmp_path, text))


def test_a_run_ranks_by_falling_score_in_six_columns(tmp_path: Path) -> None:
    """Equal scores by falling id, as trec_eval orders them."""
    write_run(tmp_path / "x.run", {"7": {"a": 0.25, "c": 0.1, "b": 0.5, "d": 0.1}}, name="mine")

    assert (tmp_path / "x.run").read_text().splitlines() == [
        "7 Q0 b 1 0.5 mine",
        "7 Q0 a 2 0.25 mine",
        "7 Q0 d 3 0.1 mine",
        "7 Q0 c 4 0.1 mine",
    ]


def test_scores_survive_a_run_file(tmp_path: Path) -> None:
    """Two that differ in the last bit still do."""
    ranking = {"q": {"a": 0.1 + 0.2, "b": 0.3}}
    write_run(tmp_path / "x.run", ranking, name="mine")

    run = ir_measures.read_trec_run(str(tmp_path / "x.run"))  # type: ignore[no-untyped-call]
    assert {each.doc_id: each.score for each in run} == ranking["q"]


def test_an_id_with_white_space_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    """It would part the columns."""
    path = _write(tmp_path, "old")

    with pytest.raises(ConfigError, match="cannot hold the id 'a b'"):
        write_run(path, {"1": {"a b": 1.0}}, name="mine")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of the new one."""

    def fail(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = _write(tmp_path, "old")
    monkeypatch.setattr("os.fsync", fail)

    with pytest.raises(StorageError, match="cannot be written: No space left"):
        write_run(path, {"1": {"a": 1.0}}, name="mine")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_run_file_without_a_place_is_refused_before_the_work(tmp_path: Path) -> None:
    """A folder that is not there, and a name that is a folder's."""
    with pytest.raises(NotFoundError, match="no such folder"):
        check_run_file(tmp_path / "no" / "x.run")
    with pytest.raises(ConfigError, match="is a folder"):
        check_run_file(tmp_path)
