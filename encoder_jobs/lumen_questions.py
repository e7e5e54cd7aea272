"""Questions to train on, a JSON object a line, and the passages that they are answered from.

| field | |
|---|---|
| `id` | a text or a number, once in the file |
| `question` | a text |
| `answers` | texts, one or more; all are right |
| `passages` | optional: texts, or objects with `text` and `title` |
| `passage_ids` | optional, instead: ids of passages of the store |
| `document_ids` | optional, instead: ids of documents of the store, for all their passages |

A question that names none gets the best passages that the store finds for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from memstore.errors import DuplicateIdError, PassageNotFoundError
from memstore.evaluation.files import load_object, malformed, numbered_lines, read_text
from memstore.service import Store
from memstore.types import Passage

_NAMING = {"passages": "", "passage_ids": "passage_id", "document_ids": "document_id"}
_WANTED = "wanted 'question' (text) and 'answers' (texts that are not empty, one or more)"

Text = tuple[str, str]
"""Title and text of a passage."""


@dataclass(frozen=True, slots=True)
class QuestionLine:
    """A line of the file.

    Attributes:
        line: its number, from 1.
        question_id, text, answers: what it says.
        passages: given as texts.
        named: ids of passages or documents of the store.
        column: of which of the two; empty if no ids are given.
    """

    line: int
    question_id: str
    text: str
    answers: tuple[str, ...]
    passages: tuple[Text, ...] = ()
    named: tuple[str, ...] = ()
    column: str = ""


def read_lines(path: Path) -> list[QuestionLine]:
    """Read questions.

    Raises:
        ConfigError: if the file is empty or a line is malformed; with its number.
        DuplicateIdError: if two questions have one id.
        NotFoundError, StorageError, InvalidInputError: if the file cannot be read.
    """
    questions: dict[str, QuestionLine] = {}
    for number, line in numbered_lines(read_text(path)):
        question = _parse(path, number, load_object(path, number, line))
        if question.question_id in questions:
            first = questions[question.question_id].line
            raise DuplicateIdError(
                f"{path}, line {number}: the question id {question.question_id!r} is that of line "
                f"{first}"
            )
        questions[question.question_id] = question
    return list(questions.values())


def find_passages(
    path: Path, lines: Sequence[QuestionLine], *, store: Store | None, collection: str, top_k: int
) -> Iterator[list[Text]]:
    """Yield each question's passages, `top_k` at most, in the order of the file or of the search.

    Args:
        path: the file, for errors.
        lines: the questions.
        store: where ids are looked up and passages searched; None: all are in the file.
        collection: of the store.
        top_k: how many are taken or searched for.

    Raises:
        ConfigError: if a question has no passage, or needs a store and there is none.
        PassageNotFoundError: if an id is not in the store.
        MemstoreError: as the store.
    """
    if store is None:
        _refuse_without_store(path, lines)
        yield from (list(line.passages[:top_k]) for line in lines)
        return
    snapshot = store.collection(collection).snapshot()
    finder = _Finder(path, store, collection, snapshot.version)
    finder.look_up(lines)
    for line in lines:
        passages = list(line.passages) or finder.named(line) or finder.search(line, top_k)
        if not passages:
            raise malformed(path, line.line, f"collection {collection!r} has no passage for it")
        yield passages[:top_k]


class _Finder:
    """Passages of one version of a collection."""

    def __init__(self, path: Path, store: Store, collection: str, version: int) -> None:
        self._path, self._store = path, store
        self._collection, self._version = collection, version
        self._snapshot = store.collection(collection).snapshot(version)
        self._rows: dict[tuple[str, str], list[int]] = {}

    def look_up(self, lines: Sequence[QuestionLine]) -> None:
        """Find all rows that the lines name, in one pass over each column."""
        import pyarrow as pa

        for column in ("passage_id", "document_id"):
            names = {name for line in lines if line.column == column for name in line.named}
            rows = self._snapshot.rows_with(column, pa.array(sorted(names), pa.string()))
            ids = self._snapshot.column(column)
            for row in rows.tolist():
                self._rows.setdefault((column, ids[row].as_py()), []).append(row)

    def named(self, line: QuestionLine) -> list[Text]:
        """Return the passages that a line names by id; none if it names none."""
        passages: list[Text] = []
        for name in line.named:
            rows = self._rows.get((line.column, name))
            if rows is None:
                raise PassageNotFoundError(
                    f"{self._path}, line {line.line}: {line.column} {name!r} is not in version "
                    f"{self._version} of collection {self._collection!r}",
                    object=self._path,
                    line=line.line,
                )
            found = sorted(map(self._snapshot.passage, rows), key=lambda each: each.number)
            passages += map(_text, found)
        return passages

    def search(self, line: QuestionLine, top_k: int) -> list[Text]:
        """Return the best passages for a line's question."""
        found = self._store.search(
            line.text, top_k=top_k, collection=self._collection, version=self._version
        )
        return [_text(hit) for hit in found.hits]


def _text(passage: Passage) -> Text:
    return passage.title, passage.text


def _refuse_without_store(path: Path, lines: Sequence[QuestionLine]) -> None:
    for line in lines:
        if not line.passages:
            got = f"{line.column}s" if line.column else "no passages"
            raise malformed(path, line.line, f"{got} and no store to find them in; give --store")


def _parse(path: Path, number: int, record: dict[str, Any]) -> QuestionLine:
    name, text, answers = record.get("id"), record.get("question"), record.get("answers")
    if not isinstance(name, str | int) or name == "":
        raise malformed(path, number, "no 'id' that is a text or a number")
    if not _is_text(text) or not answers or not _are_texts(answers):
        raise malformed(path, number, _WANTED)
    given = [field for field in _NAMING if record.get(field) is not None]
    if len(given) > 1:
        raise malformed(path, number, f"{' and '.join(given)}; wanted one of them")
    line = number, str(name), text.strip(), tuple(answers)
    if not given:
        return QuestionLine(*line)
    values = record[given[0]]
    if not isinstance(values, list) or not values:
        raise malformed(path, number, f"{given[0]!r} is no list with something in it")
    if given[0] == "passages":
        return QuestionLine(*line, passages=tuple(_passage(path, number, each) for each in values))
    if not _are_texts(values):
        raise malformed(path, number, f"{given[0]!r} holds what is no id")
    return QuestionLine(*line, named=tuple(values), column=_NAMING[given[0]])


def _passage(path: Path, number: int, value: object) -> Text:
    title, text = "", value
    if isinstance(value, dict):
        title, text = value.get("title", ""), value.get("text")
    if not _is_text(text) or (title != "" and not _is_text(title)):
        raise malformed(path, number, "a passage is no text, or has none but spaces")
    return title, text


def _is_text(value: object) -> TypeGuard[str]:
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character: JSON can write it, a tokenizer cannot read it
        return False
    return True


def _are_texts(values: object) -> TypeGuard[list[str]]:
    return isinstance(values, list) and all(map(_is_text, values))
