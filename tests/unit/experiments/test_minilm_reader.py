"""The parts of the experiment on a small reader that decide what its figures mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.minilm_reader.arms import ARMS, RAW_BYTES
from experiments.minilm_reader.batches import collate, reading_batches, training_batches
from experiments.minilm_reader.cloze import ask
from experiments.minilm_reader.joint import LiveMemories, encode_all
from experiments.minilm_reader.material import Material, Question
from experiments.minilm_reader.reading import remember
from experiments.minilm_reader.report import paired_interval
from experiments.minilm_reader.runs import questions_of
from memstore.models.extractive import ExtractiveLumen
from memstore.types import Document
from tests.tiny import save_encoder

TEXT = (
    "In 1912 the Titanic left Southampton with some 2,200 people on her way to New York. "
    "The ship was thought to be beyond all harm by those who built her and by the men on board. "
) * 4


@pytest.fixture
def material() -> Material:
    """Return three articles of two documents, two passages each, and a question a document."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 9, 12)
    offsets = np.cumsum([0, *lengths])
    spans = np.concatenate([[[-1, -1], *([i, i + 1] for i in range(n - 2)), [-1, -1]]
                            for n in lengths])  # fmt: skip
    documents = np.arange(12) // 2
    return Material(
        memories=np.zeros((offsets[-1], 32), np.float32),
        token_ids=rng.integers(4, 30, offsets[-1]),
        offsets=offsets,
        spans=spans,
        texts=["abcdefgh"] * 12,
        articles=documents // 2,
        documents=documents,
        questions=[
            Question(np.array([2, 9 + each, 3]), "b", each // 2, each, 2 * each + 1, 2, 2)
            for each in range(6)
        ],
    )


def test_answers_of_made_questions_stand_where_they_are_said_to() -> None:
    """The answer is the text at its start, the same each time, and not in its own question."""
    document = Document("d", TEXT)
    asked = ask(document)
    assert asked == ask(document)
    assert len(asked) == len(TEXT) // 120
    for each in asked:
        assert TEXT[each.start : each.start + len(each.answer)] == each.answer
        assert each.answer not in each.text
        assert each.text.endswith("?")


def test_no_arm_takes_more_bytes_than_its_name_says() -> None:
    """Codes and token id together fit the rate, and codes divide the vector."""
    for arm in ARMS.values():
        id_bytes = 2 if "predictor" in arm.stages else 0
        assert (arm.num_subspaces + id_bytes) * arm.rate <= RAW_BYTES
        assert 384 % arm.num_subspaces == 0


def test_spans_point_at_the_answer_wherever_its_passage_lies(material: Material) -> None:
    """Batches name the place of the gold passage among the chosen, or none."""
    question = material.questions[1]  # in passage 3
    batch = collate(material, [question, question], [np.array([0, 3]), np.array([0, 1])])
    assert batch.spans.tolist() == [[1, 2, 2], [-1, -1, -1]]
    assert batch.rows[0, 1, 2] == material.offsets[3] + 2
    assert batch.text_mask[0, 1].sum() == np.diff(material.offsets)[3] - 2
    assert material.answer(3, question.first, question.last) == "b"


def test_training_shows_distractors_of_the_article_only(material: Material) -> None:
    """Every question comes once, with its passage and others of its article."""
    rng = np.random.default_rng(0)
    batches = list(
        training_batches(material, material.questions, batch_size=4, num_passages=3, rng=rng)
    )
    asked = torch.cat([batch.question_ids[:, 1] for batch in batches])
    assert sorted(asked.tolist()) == [9, 10, 11, 12, 13, 14]
    for batch in batches:
        articles = material.articles[batch.passages]
        assert (articles == articles[:, :1]).all()
        assert (batch.spans[:, 0] >= 0).all()


def test_reading_gives_the_own_paragraph_first_and_the_same_distractors(material: Material) -> None:
    """A question is read from its own document's passages, then others of the article."""
    first, again = (
        next(reading_batches(material, material.questions, batch_size=6, num_passages=3))
        for _ in range(2)
    )
    assert torch.equal(first.passages, again.passages)
    for row, question in zip(first.passages.numpy(), material.questions, strict=True):
        assert material.documents[row[:2]].tolist() == [question.document] * 2
        assert material.articles[row[2]] == question.article
        assert material.documents[row[2]] != question.document


def test_folds_share_no_article(material: Material) -> None:
    """Every question is in one fold, all questions of an article in the same."""
    folds = [questions_of(material, fold) for fold in range(3)]
    assert sum(map(len, folds)) == len(material.questions)
    articles = [{each.article for each in fold} for fold in folds]
    assert articles == [{0}, {1}, {2}]


def test_live_memories_are_the_stored_ones(material: Material, tmp_path: Path) -> None:
    """Made within the batch and looked up, memories are the same wherever there is a token."""
    model = ExtractiveLumen.from_pretrained(save_encoder(tmp_path), live_fraction="1/3")
    stored = material.with_memories(encode_all(model, material))
    batch = collate(material, material.questions[:2], [np.array([7, 2, 0]), np.array([2, 5])])
    made, kept = LiveMemories(model, material, None)(batch), remember(stored)(batch)
    assert made.shape == kept.shape
    difference = (made - kept)[batch.memory_mask].abs().max()
    assert difference < 0.05  # bfloat16 products, padded otherwise
    assert kept[batch.memory_mask].abs().mean() > 0.5


def test_interval_is_of_the_paired_difference() -> None:
    """What is hard for both does not widen it: equal scores give nothing, a shift its size."""
    baseline = np.random.default_rng(0).integers(0, 2, 500).astype(float)
    assert paired_interval(baseline, baseline) == (0, 0, 0)
    assert paired_interval(baseline - 0.25, baseline) == (-0.25, -0.25, -0.25)
    worse = baseline * (np.arange(500) % 10 > 0)
    value, low, high = paired_interval(worse, baseline)
    assert low < value < high < 0
