"""Questions to whole documents: generated ones are as they say, and a small run gives its table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.long_documents import runs
from experiments.long_documents.articles import Articles
from experiments.long_documents.facts import Facts
from experiments.long_documents.report import report
from experiments.long_documents.runs import FACTS, WHOLE, WINDOWS, Setting, Workshop
from experiments.longvq.learning import Course
from experiments.results import ResultLog, run_missing
from memstore.models.longvq_config import LongVQConfig

SMALL = Facts(
    training_passages=3,
    test_passages=5,
    batch_documents=4,
    test_documents=6,
    questions_each=4,
    num_names=8,
)
SETTING = Setting(
    LongVQConfig(
        vocab_size=1,
        dim=16,
        num_layers=2,
        key_dim=8,
        value_dim=16,
        ffn_dim=32,
        num_codes=4,
        window=8,
    ),
    Course(num_steps=2, learning_rate=1e-3, warmup_steps=1),
)


def test_the_passage_that_answers_says_the_attribute_and_not_the_name() -> None:
    """The name stands at the beginning of its document alone."""
    batch = next(SMALL.training(0))
    passages = [passage.tolist() for document in batch.documents for passage in document]
    for number, (question, gold) in enumerate(zip(batch.questions, batch.gold, strict=True)):
        attribute, _, *name = question.tolist()
        first = number * SMALL.training_passages
        assert first < gold < first + SMALL.training_passages
        assert attribute in passages[gold]
        assert passages[first][1:3] == name
        assert not set(name) & set(passages[gold])
        assert {len(each) for each in passages} == {SMALL.passage_tokens}


def test_names_of_the_test_are_new() -> None:
    """And a group says how many passages before the answer its name stands."""
    test = SMALL.test()
    learnt = set()
    batches = SMALL.training(1)
    for _ in range(50):
        learnt |= {tuple(SMALL.words[each] for each in q[2:]) for q in next(batches).questions}
    assert not {tuple(each.text.split()[2:]) for each in test.questions} & learnt
    assert test.groups == ["1", "2-3", "4"]
    texts = {each.document_id: each.text for each in test.documents}
    for asked in test.questions:
        words = texts[asked.document_id][: asked.place].split()
        place, rest = divmod(len(words), SMALL.passage_tokens)
        assert not rest
        assert asked.group == place.bit_length() - 1
        answer = texts[asked.document_id][asked.place :].split()[: SMALL.passage_tokens]
        assert asked.text.split()[0] in answer


def test_a_run_reads_whole_documents_and_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One model read in two ways is trained once; read whole, more than a passage is seen."""
    monkeypatch.setitem(runs.SETTINGS, FACTS, SETTING)
    workshop = Workshop(tmp_path, tmp_path / "cache")
    workshop._tasks[FACTS] = SMALL
    log = ResultLog(tmp_path / "results.jsonl")
    wanted = [each for each in runs.keys(1) if each["task"] == FACTS]

    assert run_missing(log, wanted, workshop.run) == 0

    rows = {(row["learnt from"], row["reads"]): row for row in log.rows()}
    assert len(rows) == 3
    assert rows[WHOLE, WHOLE]["training_seconds"] == rows[WHOLE, WINDOWS]["training_seconds"]
    assert rows[WHOLE, WHOLE]["ranks"] != rows[WHOLE, WINDOWS]["ranks"]
    text = report(log.rows(), {FACTS: SMALL})
    assert text.count(f"| {WHOLE} | {WINDOWS} |") == 1
    assert "at 2-3" in text
    assert "can be right in 16.7 %" in text
    assert report([], {}) == "Nothing has been run yet."


def write_data(folder: Path) -> None:
    """Write an article of two paragraphs with a question each."""
    paragraphs = [
        {
            "context": "The lamp is blue .",
            "qas": [
                {"question": "Which colour?", "answers": [{"text": "blue", "answer_start": 12}]}
            ],
        },
        {
            "context": "It burns oil .",
            "qas": [{"question": "What burns?", "answers": [{"text": "oil", "answer_start": 9}]}],
        },
    ]
    (folder / "xquad").mkdir()
    data = {"data": [{"title": "Lamp", "paragraphs": paragraphs}]}
    (folder / "xquad" / "xquad.en.json").write_text(json.dumps(data))


def test_an_article_is_its_paragraphs(tmp_path: Path) -> None:
    """Joined into one document, where each answer stands at its place."""
    write_data(tmp_path)
    test = Articles(tmp_path).test()
    (document,) = test.documents
    assert document.text == "The lamp is blue . It burns oil ."
    assert [document.text[each.place :].split()[0] for each in test.questions] == ["blue", "oil"]
    file = tmp_path / "xquad" / "xquad.en.json"
    (article,) = json.loads(file.read_text())["data"]
    file.write_text(json.dumps({"data": [article] * 3}))
    first, last = (joined := Articles(tmp_path, joined=2).test()).documents
    assert first.text == f"{document.text} {document.text}"
    assert last.text == document.text
    third = joined.questions[3]
    assert (third.document_id, third.source) == (first.document_id, "1")
    assert first.text[third.place :].split()[0] == "oil"
    assert first.text[: third.place].count("oil") == 1


def test_what_is_asked_of_running_text_is_taken_out_of_it() -> None:
    """As much is missing in every passage of a batch: none is told by its length."""
    articles = Articles(Path(), passage_tokens=20, training_passages=3, question_tokens=(4, 6))
    articles.__dict__["_texts"] = [np.arange(1000)]  # instead of archives
    batch = next(articles.training(0))
    (num_taken,) = {len(question) for question in batch.questions}
    passages = [passage for document in batch.documents for passage in document]
    assert 4 <= num_taken <= 6
    assert {len(each) for each in passages} == {20 - num_taken}
    for question, gold in zip(batch.questions, batch.gold, strict=True):
        assert (np.diff(question) == 1).all()
        assert (np.diff(sorted([*passages[gold], *question])) == 1).all()
