"""EM, F1 and R-precision against values worked out by hand, and a reader of fixed answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from memstore.errors import ConfigError, DuplicateIdError, InvalidInputError
from memstore.evaluation import (
    Prediction,
    Question,
    evaluate_reader,
    exact_match,
    f1,
    normalize_answer,
    r_precision,
    score_answers,
)
from memstore.types import Hit

QUESTIONS = [
    Question("1", "who?", ("the red fox", "fox"), (frozenset("ab"), frozenset("c"))),
    Question("2", "where?", ("den",)),
    Question("3", "why?", ("hunger",), (frozenset("d"),)),
]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  The  cat, sat!\n", "cat sat"),
        ("a.n. other", "other"),
        ("an A the", ""),
        ("theatre and anthem", "theatre and anthem"),
        ("U.S.-led", "usled"),
        ("«Straße»", "«straße»"),
    ],
)
def test_answers_are_normalised_as_by_squad(text: str, wanted: str) -> None:
    """Lower case, then punctuation, then articles, then spaces; only ASCII punctuation goes."""
    assert normalize_answer(text) == wanted


def test_exact_match_takes_any_gold_answer() -> None:
    """After normalisation."""
    assert exact_match("The Fox.", ("the red fox", "fox")) == 1
    assert exact_match("red foxes", ("the red fox", "fox")) == 0


def test_f1_is_that_of_the_best_gold_answer() -> None:
    """Words count as often as they occur."""
    assert f1("a red dog", ("the red fox", "fox")) == pytest.approx(0.5)
    assert f1("red red fox", ("red fox",)) == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert f1("dog", ("fox",)) == 0
    assert f1("fox", ("dog", "fox")) == 1


def test_a_question_without_an_answer_wants_an_empty_one() -> None:
    """As in SQuAD 2.0; a gold answer that normalises to nothing is none."""
    assert (exact_match("", ()), f1("", ())) == (1, 1)
    assert (exact_match("fox", ()), f1("fox", ())) == (0, 0)
    assert (exact_match("", ("fox",)), f1("the", ("fox",))) == (0, 0)
    assert exact_match("", ("the", "fox")) == 0


def test_r_precision_looks_as_far_as_the_gold_set_is_large() -> None:
    """In the best of the sets; documents that come again are passed over."""
    sets = (frozenset("ab"), frozenset("c"))
    assert r_precision(("a", "a", "b"), sets) == 1
    assert r_precision(("a", "x", "b"), sets) == 0.5
    assert r_precision(("c",), sets) == 1
    assert r_precision(("x", "c"), sets) == 0
    assert r_precision((), sets) == 0


def test_predictions_are_scored_question_by_question() -> None:
    """One that is missing counts as 0, in R-precision too."""
    report = score_answers(
        QUESTIONS, {"1": Prediction("red fox", ("b",)), "2": Prediction("a den!")}
    )

    assert {each.measure: each.values.tolist() for each in report.scores} == {
        "EM": [1, 1, 0],
        "F1": [1, 1, 0],
        "R-precision": [0.5, 0],
    }
    assert (report.num_questions, report.num_missing) == (3, 1)


@pytest.mark.parametrize(
    ("questions", "predictions"),
    [
        (QUESTIONS, {"1": Prediction("fox")}),
        (QUESTIONS[1:2], {"2": Prediction("den", ("a",))}),
    ],
)
def test_r_precision_is_left_out_where_it_says_nothing(
    questions: list[Question], predictions: dict[str, Prediction]
) -> None:
    """No prediction names a document, or no question has provenance."""
    report = score_answers(questions, predictions)
    assert [each.measure for each in report.scores] == ["EM", "F1"]


def test_files_of_different_sets_are_refused() -> None:
    """Nothing in common, or some that are unknown, or no question, or two of one id."""
    answer = Prediction("fox")
    with pytest.raises(ConfigError, match="files of one set"):
        score_answers(QUESTIONS, {"9": answer})
    with pytest.raises(ConfigError, match="1 predictions are of no question: '9'"):
        score_answers(QUESTIONS, {"1": answer, "9": answer})
    with pytest.raises(ConfigError, match="no question to score"):
        score_answers([], {"1": answer})
    with pytest.raises(DuplicateIdError, match="2 questions have 1 ids"):
        score_answers(QUESTIONS[:1] * 2, {"1": answer})


@dataclass(frozen=True)
class _Answer:
    text: str
    passages: tuple[Hit, ...] = ()


@dataclass
class _Reader:
    """Says what it was given for each question, and remembers the calls."""

    answers: dict[str, _Answer]
    calls: list[list[str]] = field(default_factory=list)

    def answer(self, questions: list[str], /) -> list[_Answer]:
        self.calls.append(questions)
        return [self.answers[text] for text in questions if text in self.answers]


def _hits(*documents: str) -> tuple[Hit, ...]:
    return tuple(
        Hit(document_id=name, number=i, text="", score=1.0) for i, name in enumerate(documents)
    )


def test_a_reader_is_asked_in_batches_and_scored() -> None:
    """The documents of its passages are what its answer rests on."""
    answers = {
        "who?": _Answer("fox", _hits("b", "b", "a")),
        "where?": _Answer("lair"),
        "why?": _Answer("great hunger", _hits("e", "d")),
    }
    reader = _Reader(answers)
    done: list[int] = []

    report = evaluate_reader(reader, QUESTIONS, batch_size=2, progress=done.append)

    assert (reader.calls, done) == ([["who?", "where?"], ["why?"]], [2, 1])
    assert {each.measure: each.values.tolist() for each in report.scores} == {
        "EM": [1, 0, 0],
        "F1": [1, 0, pytest.approx(2 / 3)],
        "R-precision": [1, 0],
    }
    assert report.num_missing == 0


def test_a_reader_that_leaves_questions_out_is_refused() -> None:
    """Answers would go to the wrong questions."""
    with pytest.raises(InvalidInputError, match="2 answers to 3 questions"):
        evaluate_reader(_Reader({"who?": _Answer(""), "why?": _Answer("")}), QUESTIONS)


def test_a_reader_needs_questions_and_batches() -> None:
    """Nothing to ask, or nothing at a time."""
    with pytest.raises(ConfigError, match="batch_size is 0"):
        evaluate_reader(_Reader({}), QUESTIONS, batch_size=0)
    with pytest.raises(ConfigError, match="no question"):
        evaluate_reader(_Reader({}), [])
