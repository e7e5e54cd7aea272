"""Training questions: the layout of the file, and where passages come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from encoder_jobs.lumen_questions import find_passages, read_lines
from memstore import Store, open_store
from memstore.errors import ConfigError, DuplicateIdError, PassageNotFoundError
from memstore.types import Passage

GOOD = {"id": "q1", "question": "who?", "answers": ["nobody"], "passages": ["a text"]}


def write(path: Path, *records: Any) -> Path:
    """Write records as JSON lines, what is text already as it is."""
    lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{", "broken JSON"),
        ("[1]", "wanted a JSON object"),
        ({**GOOD, "id": ""}, "no 'id'"),
        ({**GOOD, "id": None}, "no 'id'"),
        ({**GOOD, "question": " "}, "wanted 'question'"),
        ({**GOOD, "question": 7}, "wanted 'question'"),
        ({**GOOD, "question": "half \ud800"}, "wanted 'question'"),
        ({**GOOD, "answers": []}, "'answers'"),
        ({**GOOD, "answers": [""]}, "'answers'"),
        ({**GOOD, "answers": "nobody"}, "'answers'"),
        ({**GOOD, "passages": []}, "'passages' is no list with something in it"),
        ({**GOOD, "passages": [" "]}, "a passage is no text"),
        ({**GOOD, "passages": [{"title": "t"}]}, "a passage is no text"),
        ({**GOOD, "passages": [{"title": 1, "text": "t"}]}, "a passage is no text"),
        ({**GOOD, "passage_ids": ["a#0"]}, "passages and passage_ids; wanted one"),
        ({**GOOD, "passages": None, "passage_ids": [3]}, "holds what is no id"),
    ],
)
def test_a_malformed_line_is_refused_with_its_number(
    tmp_path: Path, record: Any, said: str
) -> None:
    """Blank lines count too."""
    path = write(tmp_path / "questions.jsonl", {**GOOD, "id": "q0"}, "", record)

    with pytest.raises(ConfigError, match=f"line 3.*{said}"):
        read_lines(path)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    """Blank lines are none."""
    with pytest.raises(ConfigError, match="the file is empty"):
        read_lines(write(tmp_path / "questions.jsonl", "", ""))


def test_an_id_that_comes_again_is_refused(tmp_path: Path) -> None:
    """With both lines; a number is the text that it is written with."""
    path = write(tmp_path / "questions.jsonl", {**GOOD, "id": 7}, {**GOOD, "id": "7"})

    with pytest.raises(DuplicateIdError, match="line 2: the question id '7' is that of line 1"):
        read_lines(path)


def test_passages_in_the_file_need_no_store(tmp_path: Path) -> None:
    """Texts, with titles or without; the first `top_k`."""
    passages = ["one", {"title": "t", "text": "two"}, "three"]
    path = write(tmp_path / "questions.jsonl", {**GOOD, "passages": passages})

    found = find_passages(path, read_lines(path), store=None, collection="", top_k=2)

    assert list(found) == [[("", "one"), ("t", "two")]]


@pytest.mark.parametrize(
    ("fields", "said"),
    [({}, "no passages and no store"), ({"passage_ids": ["a#0"]}, "passage_ids and no store")],
)
def test_what_needs_a_store_is_refused_without_one(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    """With the line, before anything is read."""
    record = {name: GOOD[name] for name in ("id", "question", "answers")} | fields
    path = write(tmp_path / "questions.jsonl", GOOD, {**record, "id": "q2"})

    with pytest.raises(ConfigError, match=f"line 2: {said}"):
        list(find_passages(path, read_lines(path), store=None, collection="", top_k=2))


class Compass:
    """An encoder of questions alone: the vector of a direction."""

    identity = SimpleNamespace(id="compass")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return (len(texts), 2)."""
        directions = {"east": [1.0, 0.0], "north": [0.0, 1.0]}
        return np.array([directions[text] for text in texts], np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three passages of two documents, one of them north."""
    opened = open_store(tmp_path / "store", encoder=Compass())  # type: ignore[arg-type]
    places = [("a", 0, [1.0, 0.0]), ("a", 1, [0.9, 0.1]), ("b", 0, [0.0, 1.0])]
    opened.write(
        [
            Passage(document_id=name, number=number, title=f"of {name}", text=f"{name}{number}")
            for name, number, _ in places
        ],
        [np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32) for _ in places],
        embeddings=np.array([vector for *_, vector in places], np.float32),
        encoder_id="compass",
    )
    return opened


def test_passages_are_looked_up_or_searched_for(tmp_path: Path, store: Store) -> None:
    """By id of passage or document, in the order given, or the best for the question."""
    common = {"answers": ["x"]}
    path = write(
        tmp_path / "questions.jsonl",
        {"id": 1, "question": "east", "passage_ids": ["b#0", "a#1"], **common},
        {"id": 2, "question": "north", "document_ids": ["b", "a"], **common},
        {"id": 3, "question": "north", **common},
        {"id": 4, "question": "east", "passages": ["own"], **common},
    )

    found = find_passages(path, read_lines(path), store=store, collection="default", top_k=2)

    a0, a1, b0 = ("of a", "a0"), ("of a", "a1"), ("of b", "b0")
    assert list(found) == [[b0, a1], [b0, a0], [b0, a1], [("", "own")]]


@pytest.mark.parametrize("field", ["passage_ids", "document_ids"])
def test_an_unknown_id_is_refused_with_its_line(tmp_path: Path, store: Store, field: str) -> None:
    """An id of the other kind is unknown too."""
    name = "a" if field == "passage_ids" else "a#0"
    record = {"id": 1, "question": "east", "answers": ["x"], field: [name]}
    path = write(tmp_path / "questions.jsonl", record)

    with pytest.raises(PassageNotFoundError, match=f"line 1: .*'{name}' is not in version 1"):
        list(find_passages(path, read_lines(path), store=store, collection="default", top_k=2))
