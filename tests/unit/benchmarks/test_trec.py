"""A collection in TREC's XML is read by the conventions of its judgements."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness import DataMissingError
from benchmarks.trec import read_cranfield

_CORPUS = """<doc>
<docno>1</docno>
<title>a wing in
a slipstream .</title>
<text>a wing of ten feet .</text>
</doc>
<doc>
<docno>2</docno>
<title></title>
<text></text>
</doc>
"""
_TOPICS = "<xml><top><num> 1</num> <title>\nwhat of wings\n</title></top>" + (
    "<top><num> 4</num><title>what of heat</title></top></xml>"
)
_JUDGEMENTS = "1 0 1 1\n1 0 2 0\n2 0 2 3\n2 0 1 -1\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a small collection in its folder cranfield."""
    folder = tmp_path / "cranfield"
    folder.mkdir()
    (folder / "cran.all.1400.xml").write_text(_CORPUS, encoding="utf-8")
    (folder / "cran.qry.xml").write_text(_TOPICS, encoding="utf-8")
    (folder / "cranqrel.trec.txt").write_text(_JUDGEMENTS, encoding="utf-8")
    return tmp_path


def test_queries_are_numbered_by_their_place(data: Path) -> None:
    """The judgements count them so; their own numbers have gaps."""
    assert read_cranfield(data).queries == {"1": "what of wings", "2": "what of heat"}


def test_only_judgements_above_zero_are_relevant(data: Path) -> None:
    """Negative ones say "of no interest"."""
    assert read_cranfield(data).relevant == {"1": {"1"}, "2": {"2"}}


def test_documents_keep_their_ids_and_empty_ones_stay(data: Path) -> None:
    """Whether there is a passage in them is not decided here."""
    first, second = read_cranfield(data / "cranfield").documents

    assert (first.document_id, first.title) == ("1", "a wing in a slipstream .")
    assert (second.document_id, second.text) == ("2", "")


def test_a_missing_collection_is_said_to_be_missing(tmp_path: Path) -> None:
    """The benchmark is skipped, it does not fail half-way."""
    with pytest.raises(DataMissingError, match="cranqrel"):
        read_cranfield(tmp_path)
    with pytest.raises(DataMissingError, match="--data"):
        read_cranfield(None)
