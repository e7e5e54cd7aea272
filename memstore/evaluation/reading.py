"""How well answers agree with gold answers, and passages with what supports them.

EM and F1 as SQuAD's script computes them, R-precision as KILT's; all from 0 to 1. A question
without a prediction counts as 0.

Source: Rajpurkar et al., "SQuAD", EMNLP 2016, and "Know What You Don't Know", ACL 2018 (questions
without answer); Petroni et al., "KILT", NAACL 2021, for R-precision.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from memstore.errors import ConfigError, DuplicateIdError, InvalidInputError
from memstore.evaluation.questions import Prediction, Question
from memstore.evaluation.scores import Score, score
from memstore.types import Passage

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Answer(Protocol):
    """What a reader says, and the passages that it read, the best first."""

    @property
    def text(self) -> str:
        """The answer."""
        ...

    @property
    def passages(self) -> Sequence[Passage]:
        """What it rests on; hits are passages."""
        ...


class Reader(Protocol):
    """Whatever answers questions."""

    def answer(self, questions: list[str], /) -> Sequence[Answer]:
        """Return one answer a question, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadingReport:
    """What an evaluation found.

    Attributes:
        scores: "EM" and "F1", `values` in the order of the questions; and "R-precision", `values`
            of the questions that have provenance, if any has and any prediction names documents.
        num_questions: how many were scored.
        num_missing: how many of them had no prediction; they count as 0.
    """

    scores: tuple[Score, ...]
    num_questions: int
    num_missing: int


def evaluate_reader(
    reader: Reader,
    questions: Sequence[Question],
    *,
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
) -> ReadingReport:
    """Ask a reader every question and score what it says: `ask_reader`, then `score_answers`."""
    predictions = ask_reader(reader, questions, batch_size=batch_size, progress=progress)
    return score_answers(questions, predictions)


def ask_reader(
    reader: Reader,
    questions: Sequence[Question],
    *,
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Prediction]:
    """Return what a reader says to each question, by its id, and the documents that it read.

    Args:
        reader: anything with `answer(questions)`.
        questions: their gold answers are not looked at.
        batch_size: questions in a call of the reader.
        progress: called after each call with the number of questions in it.

    Raises:
        ConfigError: if `batch_size` is below 1.
        InvalidInputError: if the reader does not give one answer a question.
        MemstoreError: as the reader.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; wanted 1 or more")
    predictions: dict[str, Prediction] = {}
    for start in range(0, len(questions), batch_size):
        batch = questions[start : start + batch_size]
        answers = reader.answer([question.text for question in batch])
        if len(answers) != len(batch):
            raise InvalidInputError(
                f"the reader gave {len(answers)} answers to {len(batch)} questions"
            )
        for question, answer in zip(batch, answers, strict=True):
            documents = dict.fromkeys(passage.document_id for passage in answer.passages)
            predictions[question.question_id] = Prediction(answer.text, tuple(documents))
        if progress is not None:
            progress(len(batch))
    return predictions


def score_answers(
    questions: Sequence[Question], predictions: Mapping[str, Prediction]
) -> ReadingReport:
    """Score predictions, by the id of their question.

    Raises:
        ConfigError: if there is no question, or a prediction is of none of them.
        DuplicateIdError: if two questions have one id.
    """
    if not questions:
        raise ConfigError("no question to score")
    known = {question.question_id for question in questions}
    if len(known) != len(questions):
        raise DuplicateIdError(f"{len(questions)} questions have {len(known)} ids; wanted one each")
    _check_predictions(predictions, known)
    pairs = [(question, predictions.get(question.question_id)) for question in questions]
    scores = [
        score(
            "EM", np.array([0.0 if p is None else exact_match(p.text, q.answers) for q, p in pairs])
        ),
        score("F1", np.array([0.0 if p is None else f1(p.text, q.answers) for q, p in pairs])),
    ]
    supported = [(q, p) for q, p in pairs if q.provenance]
    if supported and any(p.document_ids for p in predictions.values()):
        values = [r_precision(p.document_ids if p else (), q.provenance) for q, p in supported]
        scores.append(score("R-precision", np.array(values)))
    return ReadingReport(
        scores=tuple(scores),
        num_questions=len(questions),
        num_missing=sum(prediction is None for _, prediction in pairs),
    )


def normalize_answer(text: str) -> str:
    """Return a text in lower case, without ASCII punctuation, English articles and extra spaces.

    Languages that write no spaces keep their sentences whole: F1 is then nearly EM.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if a prediction equals a gold answer after normalisation, else 0."""
    return float(normalize_answer(prediction) in _gold(answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the F1 of a prediction's words against those of the gold answer that it fits best."""
    words = normalize_answer(prediction).split()
    return max(_overlap(words, answer.split()) for answer in _gold(answers))


def r_precision(document_ids: Sequence[str], provenance: Sequence[frozenset[str]]) -> float:
    """Return the share of a set of R documents among the first R predicted; of the best set.

    Args:
        document_ids: predicted, the best first; those that come again are passed over.
        provenance: sets of documents, none empty, any of which supports an answer.
    """
    ranked = list(dict.fromkeys(document_ids))
    shares = [len(gold.intersection(ranked[: len(gold)])) / len(gold) for gold in provenance]
    return max(shares, default=0.0)


def _gold(answers: Sequence[str]) -> list[str]:
    """Normalize gold answers; a question without any wants an empty answer."""
    return [text for answer in answers if (text := normalize_answer(answer))] or [""]


def _overlap(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    common = (Counter(words) & Counter(gold)).total()
    return 2 * common / (len(words) + len(gold))


def _check_predictions(predictions: Mapping[str, Prediction], known: set[str]) -> None:
    unknown = [name for name in predictions if name not in known]
    if len(unknown) == len(predictions):
        raise ConfigError("no prediction is of one of the questions; are the files of one set?")
    if unknown:
        first = ", ".join(map(repr, unknown[:3]))
        raise ConfigError(f"{len(unknown)} predictions are of no question: {first}")
