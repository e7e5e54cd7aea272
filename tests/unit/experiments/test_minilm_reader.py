"""The parts of the experiment on a small reader that decide what its figures mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.minilm_reader.arms import ARMS, RAW_BYTES, keys
from experiments.minilm_reader.batches import collate, reading_batches, training_batches
from experiments.minilm_reader.cloze import WORD, ask
from experiments.minilm_reader.guesses import most_shared_words, random_spans
from experiments.minilm_reader.joint import LiveMemories, encode_all, keep_pooled
from experiments.minilm_reader.material import Material, Question
from experiments.minilm_reader.reading import Training, remember, train
from experiments.minilm_reader.report import from_text, paired_interval, report, to_text
from experiments.minilm_reader.workshop import questions_of
from memstore.codec import ProductCodec
from memstore.models.extractive import ExtractiveLumen
from memstore.models.vq import ProductVQ
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
            Question("b?", np.array([2, 9 + each, 3]), "b", each // 2, each, 2 * each + 1, 2, 2)
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
        rate = int(arm.name.split()[1].removesuffix("x"))
        code_bytes = 1 if arm.codebook_size == 256 else 2
        assert (arm.num_subspaces * code_bytes + id_bytes) * rate <= RAW_BYTES
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


def test_no_run_is_asked_for_twice() -> None:
    """Keys differ, and each seed has as many."""
    found = [tuple(sorted(key.items())) for key in keys(2)]
    assert len(set(found)) == len(found) == 2 * len(keys(1))


def test_folds_share_no_article(material: Material) -> None:
    """Every question is in one fold, all questions of an article in the same."""
    folds = [questions_of(material, fold) for fold in range(3)]
    assert sum(map(len, folds)) == len(material.questions)
    articles = [{each.article for each in fold} for fold in folds]
    assert articles == [{0}, {1}, {2}]


def test_live_memories_are_the_stored_ones(material: Material, tmp_path: Path) -> None:
    """Made within the batch and looked up, memories are the same wherever there is a token."""
    model = ExtractiveLumen.from_pretrained(save_encoder(tmp_path), live_fraction="1/3")
    stored = material.with_memories(encode_all(model, material.token_ids, material.offsets))
    batch = collate(material, material.questions[:2], [np.array([7, 2, 0]), np.array([2, 5])])
    made, kept = LiveMemories(model, material, None)(batch), remember(stored)(batch)
    assert made.shape == kept.shape
    difference = (made - kept)[batch.memory_mask].abs().max()
    assert difference < 0.05  # bfloat16 products, padded otherwise
    assert kept[batch.memory_mask].abs().mean() > 0.5


def test_joint_training_moves_what_it_says_and_nothing_else(
    material: Material, tmp_path: Path
) -> None:
    """The memory encoder's layers move only where they have a rate; questions' never do."""
    live = {}
    for name, memory_rate in (("frozen", 0.0), ("joint", 0.01)):
        model = ExtractiveLumen.from_pretrained(save_encoder(tmp_path / name), live_fraction="1/3")
        before = {key: value.clone() for key, value in model.state_dict().items()}
        vectors = encode_all(model, material.token_ids, material.offsets).astype(np.float32)
        codec = ProductCodec.train(vectors, num_subspaces=8, codebook_size=4, seed=0)
        layer = ProductVQ.from_codec(codec, decay=0.9)
        training = Training(0.01, 1, 2, 2, memory_rate=memory_rate)
        remembered = LiveMemories(model, material, layer)
        rng = np.random.default_rng(0)
        found = train(model, material, material.questions, remembered, training, rng)
        assert found["steps"] == 3
        moved = {key for key, value in model.state_dict().items() if (value != before[key]).any()}
        live[name] = {key for key in moved if not key.startswith("memory_encoder")}
        frozen = moved - live[name]
        assert bool(frozen) == bool(memory_rate)
        assert not any("embeddings" in key for key in frozen)
        assert not any(key.startswith("question_encoder") for key in moved)
        assert (layer.to_codec().codebook != codec.codebook).any()
    assert live["joint"] == live["frozen"]
    assert any(key.startswith("live") for key in live["joint"])


def test_pooled_vectors_come_nearer_to_those_of_raw_memories(
    material: Material, tmp_path: Path
) -> None:
    """Trained through another's codebook, the live layers' vectors come back to what they were."""
    model = ExtractiveLumen.from_pretrained(save_encoder(tmp_path), live_fraction="1/3")
    memories = encode_all(model, material.token_ids, material.offsets)
    material = material.with_memories(memories)
    others = np.random.default_rng(0).normal(size=memories.shape).astype(np.float32)
    codec = ProductCodec.train(others, num_subspaces=8, codebook_size=4, seed=0)
    live = LiveMemories(model, material, ProductVQ.from_codec(codec, decay=0.9))
    training = Training(0.0, 1, 12, 1, memory_rate=1e-3)
    losses = [keep_pooled(live, training, 12, np.random.default_rng(0))["loss"] for _ in range(9)]
    assert losses[-1] < 0.8 * losses[0]


def test_guesses_answer_from_what_the_reader_would_see(material: Material) -> None:
    """A random span is right now and then; shared words lead to the phrase next to them."""
    reading = random_spans(material, material.questions, seed=0)
    assert 0 < reading.em.mean() < 1
    assert (reading.f1 >= reading.em - 1e-9).all()
    text = "Otters sleep quietly beside rivers. Foxes hunt mice in Oslo."
    words = [(word.start(), word.end()) for word in WORD.finditer(text)]
    found = most_shared_words(
        Material(
            memories=np.zeros((len(words), 4)),
            token_ids=np.arange(len(words)),
            offsets=np.array([0, 5, len(words)]),
            spans=np.array(words),
            texts=[text] * 2,
            articles=np.zeros(2, int),
            documents=np.zeros(2, int),
            questions=[],
        ),
        [Question("Where do foxes hunt mice?", np.array([1]), "Oslo", 0, 0, 1, 4, 4)],
    )
    assert found.em.tolist() == [1]
    assert found.is_found.tolist() == [1]


def test_scores_outlive_a_row() -> None:
    """Scores come back to the percent, and a row of 400 questions stays short."""
    scores = np.random.default_rng(0).integers(0, 4, 400) / 3
    assert np.abs(from_text(to_text(scores)) - scores).max() <= 0.005
    assert len(to_text(scores)) < 400


def test_interval_is_of_the_paired_difference() -> None:
    """What is hard for both does not widen it: equal scores give nothing, a shift its size."""
    baseline = np.random.default_rng(0).integers(0, 2, (2, 500)).astype(float)
    articles = np.arange(500) // 10
    assert paired_interval(baseline, baseline, articles) == (0, 0, 0)
    shifted = paired_interval(baseline - 0.25, baseline, articles)
    assert shifted == pytest.approx((-0.25, -0.25, -0.25))
    worse = baseline * (np.arange(500) % 10 > 0)
    value, low, high = paired_interval(worse, baseline, articles)
    assert low < value < high < 0


def test_interval_widens_where_the_loss_is_of_few_articles() -> None:
    """The same questions lost make a wider interval together than spread over the articles."""
    baseline, articles = np.ones((1, 500)), np.arange(500) // 10
    together, spread = baseline.copy(), baseline.copy()
    together[0, :50], spread[0, ::10] = 0, 0
    widths = []
    for values in (together, spread):
        value, low, high = paired_interval(values, baseline, articles)
        assert value == pytest.approx(-0.1)
        widths.append(high - low)
    assert widths[0] > widths[1] + 0.05


def test_report_compares_whole_arms_with_raw_memories() -> None:
    """An arm without all of its folds is left out; the loss is against the same mode's raw."""

    def row(arm: str, fold: int, em: float) -> dict[str, object]:
        scores = np.full(4, em)
        return {
            "task": "reading", "mode": "as trained", "arm": arm, "fold": fold, "seed": 0,
            "bytes_per_token": 768 if arm == "raw" else 48, "codec_bytes": 0, "found": em,
            "error": 1 - em,
            "questions_by_article": [3, 1],
            "em_by_question": to_text(scores), "f1_by_question": to_text(scores),
        }  # fmt: skip

    rows = [row("raw", fold, 0.5) for fold in range(3)]
    rows += [row("plain 16x", fold, 0.25) for fold in range(3)]
    rows += [row("token 16x", fold, 0.25) for fold in range(2)]
    text = report(rows)
    assert (
        "| plain 16x | 48 | 16.0 | 0.0 | 0.750 | 25.0 | 25.0 | 25.0 | 1 | -25.0 (-25.0 to -25.0) |"
        in text
    )
    assert "token 16x" not in text
