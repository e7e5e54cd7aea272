"""Questions with their gold answers, and predictions, in the layouts that reading is scored on.

| what | layout |
|---|---|
| questions | SQuAD, XQuAD: one JSON object, `data[].paragraphs[].qas[]` |
| questions | KILT: `{"id", "input", "output": [{"answer", "provenance"}]}` a line |
| questions | plain: `{"id", "question", "answers"}` a line |
| predictions | SQuAD: one JSON object, id → answer |
| predictions | KILT: `{"id", "output": [{"answer", "provenance"}]}` a line |
| predictions | plain: `{"id", "answer"}` a line |

A file whose first line is an object with an `id` is one of lines; KILT's `provenance` is a list of
`{"wikipedia_id"}`. Files may end in .gz or .zst.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from memstore.errors import ConfigError, DuplicateIdError
from memstore.evaluation.files import (
    check_run_file,
    load_object,
    malformed,
    numbered_lines,
    read_text,
    write_whole,
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what is accepted as its answer.

    Attributes:
        question_id: unique in its file.
        text: the question.
        answers: gold answers, any of which is right; none: the right answer is an empty one.
        provenance: sets of document ids, any of which, whole, supports an answer.
    """

    question_id: str
    text: str
    answers: tuple[str, ...]
    provenance: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer, and the ids of the documents that it rests on, the best first."""

    text: str
    document_ids: tuple[str, ...] = ()


def read_questions(path: Path) -> list[Question]:
    """Read questions and gold answers.

    Raises:
        ConfigError: if the file is empty, of no layout above, or malformed; with the place.
        DuplicateIdError: if two questions have one id.
        NotFoundError, StorageError, InvalidInputError: if the file cannot be read.
    """
    text = read_text(path)
    found = _question_lines(path, text) if _is_lines(text) else _squad(path, text)
    questions: dict[str, Question] = {}
    for question in found:
        _refuse_again(path, question.question_id, questions)
        questions[question.question_id] = question
    if not questions:
        raise ConfigError(f"{path}: no question in it")
    return list(questions.values())


def read_predictions(path: Path) -> dict[str, Prediction]:
    """Read predictions by the id of their question. Errors as `read_questions`."""
    text = read_text(path)
    predictions: dict[str, Prediction] = {}
    if _is_lines(text):
        for number, line in numbered_lines(text):
            record = load_object(path, number, line)
            name = _id(path, number, record)
            _refuse_again(path, name, predictions)
            predictions[name] = _prediction(path, number, record)
    else:
        for name, answer in _document(path, text).items():
            if not isinstance(answer, str):
                raise ConfigError(f"{path}: the answer to {name!r} is no text; wanted id → answer")
            predictions[name] = Prediction(answer)
    if not predictions:
        raise ConfigError(f"{path}: no prediction in it")
    return predictions


def write_predictions(path: Path, predictions: Mapping[str, Prediction]) -> None:
    """Write predictions as KILT's lines, which `read_predictions` reads: whole, or not at all.

    Args:
        path: the file; one that is there is replaced.
        predictions: by the id of their question.

    Raises:
        ConfigError, NotFoundError: as `check_run_file`. StorageError: if the disk fails.
    """
    check_run_file(path)
    lines = []
    for name, prediction in predictions.items():
        pages = [{"wikipedia_id": each} for each in prediction.document_ids]
        output = {"answer": prediction.text, "provenance": pages}
        lines.append(json.dumps({"id": name, "output": [output]}, ensure_ascii=False) + "\n")
    write_whole(path, lines)


def _is_lines(text: str) -> bool:
    _, first = next(numbered_lines(text))
    try:
        record = json.loads(first)
    except json.JSONDecodeError:
        return False
    return isinstance(record, dict) and "id" in record


def _document(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as err:
        reason = f"broken JSON at column {err.colno}: {err.msg}"
        raise malformed(path, err.lineno, reason) from err
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: wanted a JSON object, or one with an 'id' a line")
    return value


def _question_lines(path: Path, text: str) -> Iterator[Question]:
    for number, line in numbered_lines(text):
        record = load_object(path, number, line)
        name = _id(path, number, record)
        if "output" in record:
            yield _kilt(path, number, name, record)
            continue
        question, answers = record.get("question"), record.get("answers")
        if not isinstance(question, str) or not _is_texts(answers):
            reason = (
                "wanted 'question' (text) and 'answers' (texts), or KILT's 'input' and 'output'"
            )
            raise malformed(path, number, reason)
        yield Question(name, question, tuple(answers))


def _kilt(path: Path, number: int, name: str, record: dict[str, Any]) -> Question:
    question, outputs = record.get("input"), _outputs(path, number, record)
    answers = [each["answer"] for each in outputs if each.get("answer")]
    if not isinstance(question, str) or not answers or not _is_texts(answers):
        raise malformed(path, number, "wanted 'input' (text) and an 'answer' (text) in 'output'")
    provenance = [frozenset(_pages(path, number, each)) for each in outputs]
    return Question(name, question, tuple(answers), tuple(filter(None, provenance)))


def _prediction(path: Path, number: int, record: dict[str, Any]) -> Prediction:
    output = record
    if "output" in record:
        outputs = _outputs(path, number, record)
        if len(outputs) != 1:
            raise malformed(path, number, f"{len(outputs)} outputs, wanted exactly one")
        output = outputs[0]
    answer = output.get("answer")
    if not isinstance(answer, str):
        raise malformed(path, number, "no 'answer' that is a text")
    return Prediction(answer, tuple(_pages(path, number, output)))


def _outputs(path: Path, number: int, record: dict[str, Any]) -> list[dict[str, Any]]:
    outputs = record["output"]
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        raise malformed(path, number, "'output' is no list of objects")
    return outputs


def _pages(path: Path, number: int, output: dict[str, Any]) -> list[str]:
    """Return the pages that an output names, each once, in order."""
    try:
        found = [str(each["wikipedia_id"]).strip() for each in output.get("provenance") or ()]
    except (TypeError, KeyError) as err:
        raise malformed(path, number, "a 'provenance' without 'wikipedia_id'") from err
    return list(dict.fromkeys(found))


def _squad(path: Path, text: str) -> Iterator[Question]:
    articles = _document(path, text).get("data")
    if not isinstance(articles, list):
        raise ConfigError(f"{path}: no list 'data'; wanted SQuAD's layout, or an 'id' a line")
    place = "data"
    try:
        for i, article in enumerate(articles):
            for j, paragraph in enumerate(article["paragraphs"]):
                for k, each in enumerate(paragraph["qas"]):
                    place = f"data[{i}].paragraphs[{j}].qas[{k}]"
                    yield _squad_question(each)
    except (TypeError, KeyError) as err:
        raise ConfigError(
            f"{path}, at or after {place}: {type(err).__name__} {err}; wanted"
            " data[].paragraphs[].qas[] with texts id, question and answers[].text"
        ) from err


def _squad_question(record: dict[str, Any]) -> Question:
    texts = [record["id"], record["question"], *(each["text"] for each in record["answers"])]
    if not _is_texts(texts):
        raise TypeError("no text")
    name, question, *answers = texts
    return Question(name, question, tuple(answers))


def _id(path: Path, number: int, record: dict[str, Any]) -> str:
    name = record.get("id")
    if not isinstance(name, str | int) or name == "":
        raise malformed(path, number, "no 'id' that is a text or a number")
    return str(name)


def _is_texts(values: object) -> TypeGuard[list[str]]:
    return isinstance(values, list) and all(isinstance(each, str) for each in values)


def _refuse_again(path: Path, name: str, known: dict[str, Any]) -> None:
    if name in known:
        raise DuplicateIdError(f"{path}: the question id {name!r} comes again")
