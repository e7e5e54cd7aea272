"""Questions and predictions: every layout, and what is said of one that is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memstore.errors import ConfigError, DuplicateIdError, MemstoreError
from memstore.evaluation import Prediction, Question, read_predictions, read_questions


def _write(folder: Path, *records: Any) -> Path:
    path = folder / "file.json"
    lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
    path.write_text("\n".join(lines))
    return path


def _squad(*questions: dict[str, Any]) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"paragraphs": [{"context": "…", "qas": list(questions)}]}]}


def _kilt(name: str, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "input": "who?", "output": list(outputs)}


def _page(*ids: str) -> list[dict[str, Any]]:
    return [{"wikipedia_id": each, "title": "…"} for each in ids]


@pytest.mark.parametrize("indent", [None, 1])
def test_squad_is_read(indent: int | None, tmp_path: Path) -> None:
    """On one line or on many; a question without an answer wants none."""
    squad = _squad(
        {"id": "1", "question": "who?", "answers": [{"text": "he"}, {"text": "him"}]},
        {"id": "2", "question": "why?", "answers": [], "is_impossible": True},
    )

    assert read_questions(_write(tmp_path, json.dumps(squad, indent=indent))) == [
        Question("1", "who?", ("he", "him")),
        Question("2", "why?", ()),
    ]


def test_kilt_is_read(tmp_path: Path) -> None:
    """Any output may have an answer, any a set of pages; a page named twice counts once."""
    record = _kilt(
        "1",
        {"answer": "he", "provenance": _page("12", "7", "12")},
        {"provenance": _page("9")},
        {"answer": "him", "meta": {}},
    )

    assert read_questions(_write(tmp_path, record)) == [
        Question("1", "who?", ("he", "him"), (frozenset({"12", "7"}), frozenset({"9"})))
    ]


def test_plain_lines_are_read(tmp_path: Path) -> None:
    """Ids may be numbers; lines may be blank."""
    records = (
        {"id": 1, "question": "who?", "answers": ["he"]},
        "",
        {
            "id": "b",
            "question": "why?",
            "answers": [],
        },
    )

    assert read_questions(_write(tmp_path, *records)) == [
        Question("1", "who?", ("he",)),
        Question("b", "why?", ()),
    ]


@pytest.mark.parametrize(
    ("records", "error", "what"),
    [
        ([""], ConfigError, "the file is empty"),
        (['{"id": 1, "question": "w", "answers": []}', "{"], ConfigError, "line 2: broken JSON"),
        (["{", '  "data": ['], ConfigError, "line 2: broken JSON"),
        ([[1]], ConfigError, "wanted a JSON object"),
        ([{"version": "1.1"}], ConfigError, "no list 'data'"),
        ([{"data": []}], ConfigError, "no question in it"),
        ([{"data": [{"text": ""}]}], ConfigError, "KeyError 'paragraphs'"),
        ([_squad({"id": "1", "question": "w"})], ConfigError, r"qas\[0\]: KeyError 'answers'"),
        ([_squad({"id": 1, "question": "w", "answers": []})], ConfigError, "TypeError no text"),
        ([{"id": "1", "question": "who?"}], ConfigError, "line 1: wanted 'question'"),
        ([{"id": "1", "question": "w", "answers": "he"}], ConfigError, "line 1: wanted"),
        ([{"id": "", "question": "w", "answers": []}], ConfigError, "line 1: no 'id'"),
        ([_kilt("1", {"provenance": _page("3")})], ConfigError, "line 1: wanted 'input'"),
        ([_kilt("1", {"answer": "x", "provenance": [{}]})], ConfigError, "without 'wikipedia_id'"),
        ([{"id": "1", "input": "w", "output": "x"}], ConfigError, "no list of objects"),
        ([{"id": 1, "question": "w", "answers": []}] * 2, DuplicateIdError, "'1' comes again"),
    ],
)
def test_bad_questions_are_named_by_their_place(
    records: list[Any], error: type[MemstoreError], what: str, tmp_path: Path
) -> None:
    """The file, the line or the path inside it, what is wrong."""
    with pytest.raises(error, match=what) as caught:
        read_questions(_write(tmp_path, *records))
    assert "file.json" in str(caught.value)


def test_predictions_are_read_from_every_layout(tmp_path: Path) -> None:
    """SQuAD's one object, KILT's lines with pages in order, plain lines."""
    assert read_predictions(_write(tmp_path, {"1": "he", "2": ""})) == {
        "1": Prediction("he"),
        "2": Prediction(""),
    }
    kilt = {"id": "1", "output": [{"answer": "he", "provenance": _page("7", "3", "7")}]}
    assert read_predictions(_write(tmp_path, kilt)) == {"1": Prediction("he", ("7", "3"))}
    lines = {"id": 1, "answer": "he"}, {"id": 2, "answer": "she"}
    assert read_predictions(_write(tmp_path, *lines)) == {
        "1": Prediction("he"),
        "2": Prediction("she"),
    }


@pytest.mark.parametrize(
    ("records", "error", "what"),
    [
        ([""], ConfigError, "the file is empty"),
        (["{}"], ConfigError, "no prediction"),
        ([{"1": ["he"]}], ConfigError, "the answer to '1' is no text"),
        ([{"id": 1, "answer": None}], ConfigError, "line 1: no 'answer'"),
        ([{"id": 1, "output": []}], ConfigError, "line 1: 0 outputs, wanted exactly one"),
        ([{"id": 1, "answer": "a"}, {"answer": "a"}], ConfigError, "line 2: no 'id'"),
        ([{"id": 1, "answer": "a"}] * 2, DuplicateIdError, "'1' comes again"),
    ],
)
def test_bad_predictions_are_named_by_their_place(
    records: list[Any], error: type[MemstoreError], what: str, tmp_path: Path
) -> None:
    """The file, the line, what is wrong."""
    with pytest.raises(error, match=what):
        read_predictions(_write(tmp_path, *records))
