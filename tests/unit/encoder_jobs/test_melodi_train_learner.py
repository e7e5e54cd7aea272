"""One step of a model of streams: what it learns, what it remembers, and how it is scored."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from encoder_jobs.melodi_learner import Learner
from encoder_jobs.melodi_options import MelodiOptions
from encoder_jobs.melodi_scoring import score_documents
from encoder_jobs.ragged import Ragged
from memstore.errors import ConfigError
from memstore.models.melodi_config import Architecture
from tests.tiny_melodi import VARIANTS, VOCAB, WINDOW, make_model, make_tokens, tiny_config

SEGMENT = 2 * WINDOW
ARCHITECTURES = ["melodi", "transformer-xl", "memorizing", "block-recurrent"]


def make_documents(*lengths: int, seed: int = 1) -> Ragged:
    """Return documents of random tokens."""
    rng = np.random.default_rng(seed)
    return Ragged.of([rng.integers(0, VOCAB, length) for length in lengths])


def make_learner(
    documents: Ragged,
    validation: Ragged | None = None,
    *,
    model: dict[str, Any] | None = None,
    **options: Any,
) -> Learner:
    """Return a learner of two streams and two windows a segment."""
    given = {"batch_size": 2, "segment_windows": 2, "steps": 40, "warmup_steps": 0, **options}
    return Learner(tiny_config(**(model or {})), MelodiOptions(**given), documents, validation)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_repeated_text_is_learnt(architecture: str, optimizer: str) -> None:
    """The loss falls far below that of guessing, with either optimizer."""
    line = np.random.default_rng(0).permutation(VOCAB)
    documents = Ragged.of([np.tile(line, 6)] * 2)
    learner = make_learner(
        documents,
        model={**VARIANTS[architecture], "dropout": 0.05},
        optimizer=optimizer,
        learning_rate=0.01 if optimizer == "adamw" else 0.1,
    )

    losses = [learner.learn(step).loss for step in range(1, 41)]

    assert losses[0] > math.log(VOCAB)
    assert np.mean(losses[-3:]) < 0.3 * losses[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_document_starts_without_what_was_read_before(architecture: str) -> None:
    """A stream's second document is read as by a model that has read nothing."""
    documents = make_documents(SEGMENT + 1, SEGMENT + 1)
    model = VARIANTS[architecture]
    learner = make_learner(documents, model=model, batch_size=1)
    learner.learn(1)
    fresh = [
        make_learner(documents.take(np.array([number])), model=model, batch_size=1)
        for number in range(2)
    ]
    for each in fresh:
        each.model.load_state_dict(learner.model.state_dict())

    loss = learner.learn(2).loss

    assert loss in [each.learn(1).loss for each in fresh]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_document_goes_on_with_what_was_read_of_it(architecture: str) -> None:
    """Its second segment is another one without the first."""
    documents = make_documents(2 * SEGMENT + 1)
    model = VARIANTS[architecture]
    learner = make_learner(documents, model=model, batch_size=1)
    learner.learn(1)
    rest = make_learner(Ragged.of([documents[0][SEGMENT:]]), model=model, batch_size=1)
    rest.model.load_state_dict(learner.model.state_dict())

    assert learner.learn(2).loss != pytest.approx(rest.learn(1).loss, rel=1e-6)


def test_a_stream_is_not_disturbed_by_its_neighbours() -> None:
    """One that starts a document leaves the others what they remember."""
    long, short = make_documents(3 * SEGMENT + 1), make_documents(5, 7, 9, seed=2)
    together = Ragged.of([long[0], *(short[number] for number in range(3))])
    learner = make_learner(together, batch_size=4)
    alone = make_learner(long, batch_size=1)
    parts: list[float] = []
    for step in (1, 2, 3):
        alone.model.load_state_dict(learner.model.state_dict())
        parts.append(alone.learn(step).loss)
        learner.learn(step)

    states = learner.carried()

    row = int((states["streams.document"] == 0).nonzero()[0])
    wanted = alone.carried()["0.short"][:, 0]
    assert states["0.position"][row] == 3 * SEGMENT
    assert not torch.equal(states["0.short"][:, row - 1], states["0.short"][:, row])
    torch.testing.assert_close(states["0.short"][:, row], wanted)


def test_micro_batches_add_up_to_the_batch() -> None:
    """Loss, gradient and what is carried, though documents differ in length."""
    documents = make_documents(40, 3, 11, 25)
    whole, parts = (make_learner(documents, batch_size=4, micro_batch=size) for size in (4, 3))

    for step in (1, 2):
        wanted, got = whole.learn(step), parts.learn(step)
        assert got.loss == pytest.approx(wanted.loss, rel=1e-5)
        assert got.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-4)
        assert got.num_tokens == wanted.num_tokens

    carried = parts.carried()
    torch.testing.assert_close(
        torch.cat([carried["0.short"], carried["1.short"]], dim=1),
        whole.carried()["0.short"],
        rtol=1e-3,
        atol=1e-4,
    )


def test_the_seed_decides_the_first_weights_and_the_order() -> None:
    """And the caller's own random numbers stay what they were."""
    documents = make_documents(*range(10, 30))
    torch.manual_seed(4)
    wanted = torch.rand(2)
    torch.manual_seed(4)

    first, again, other = (make_learner(documents, seed=seed) for seed in (0, 0, 1))

    assert torch.equal(torch.rand(2), wanted)
    assert torch.equal(first.model.embedding.weight, again.model.embedding.weight)
    assert not torch.equal(first.model.embedding.weight, other.model.embedding.weight)
    assert first.learn(1) == again.learn(1)
    first_taken, other_taken = (each.carried()["streams.document"] for each in (first, other))
    other.learn(1)
    assert not torch.equal(first_taken, other_taken)


def test_long_gradients_are_shortened() -> None:
    """The length that is told is that of before."""
    documents = make_documents(30, 30)
    free, clipped = (make_learner(documents, clip_norm=limit) for limit in (1e6, 1e-9))
    before = free.model.norm.weight.clone()

    results = [each.learn(1) for each in (free, clipped)]

    assert results[0] == results[1]
    moved = [(each.model.norm.weight - before).abs().sum() for each in (free, clipped)]
    assert 0 < moved[1] < moved[0]


def test_mixed_precision_keeps_weights_and_memory_in_float32() -> None:
    """And gives about the same loss."""
    documents = make_documents(60, 60)
    for architecture in ARCHITECTURES:
        full, mixed = (
            make_learner(documents, model=VARIANTS[architecture], precision=precision)
            for precision in ("float32", "bfloat16")
        )
        for step in (1, 2):
            wanted, got = full.learn(step).loss, mixed.learn(step).loss

        assert got != wanted
        assert got == pytest.approx(wanted, rel=0.05)
        kept = [*mixed.model.parameters(), *mixed.carried().values()]
        assert {each.dtype for each in kept} == {torch.float32, torch.int64}


def test_a_step_whose_loss_is_not_finite_is_not_made() -> None:
    """Weights stay."""
    learner = make_learner(make_documents(30, 30))
    learner.model.embedding.weight.data[3] = math.nan
    before = {name: each.clone() for name, each in learner.model.state_dict().items()}

    result = learner.learn(1)

    assert not result.is_finite
    torch.testing.assert_close(learner.model.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def test_more_streams_than_documents_are_refused() -> None:
    """With how many there may be."""
    with pytest.raises(ConfigError, match="batch_size: got 3, wanted at most 2, the documents"):
        make_learner(make_documents(30, 30), batch_size=3)


def reference_losses(architecture: str, document: np.ndarray) -> tuple[Any, torch.Tensor]:
    """Return a model, and its loss at every place of a document that is read at once."""
    model = make_model(**VARIANTS[architecture])
    ids = torch.from_numpy(document.astype(np.int64))[None]
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits
    return model, F.cross_entropy(logits[0], ids[0, 1:], reduction="none")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_means_over_places_in_the_document(architecture: str) -> None:
    """Windows 0, 1, 2 to 3, 4 to 7: against the document read at once."""
    (document,) = (make_tokens(5.5, batch_size=1).numpy()[0],)
    model, losses = reference_losses(architecture, document)

    scored = score_documents(model, Ragged.of([document]), num_streams=3, segment_windows=2)

    bounds = [0, WINDOW, 2 * WINDOW, 4 * WINDOW, len(losses)]
    parts = [losses[a:b] for a, b in pairwise(bounds)]
    assert [(b.first_window, b.last_window) for b in scored.buckets] == [
        (0, 0), (1, 1), (2, 3), (4, 7),
    ]  # fmt: skip
    assert [b.num_tokens for b in scored.buckets] == [len(part) for part in parts]
    assert [b.loss for b in scored.buckets] == pytest.approx([float(p.mean()) for p in parts])
    assert scored.loss == pytest.approx(float(losses.mean()))
    assert scored.perplexity == pytest.approx(math.exp(losses.mean()))
    assert (scored.num_documents, scored.num_tokens) == (1, len(losses))


def test_scores_do_not_depend_on_what_is_read_side_by_side() -> None:
    """Nor on the order of documents, nor on the length of segments."""
    documents = make_documents(50, 2, 3, 33, 17, 41)
    model = make_model()
    alone = [
        score_documents(model, documents.take(np.array([number])), num_streams=1)
        for number in range(6)
    ]
    wanted = sum(each.loss * each.num_tokens for each in alone)

    for num_streams, segment_windows in ((2, 1), (4, 3), (9, 8)):
        got = score_documents(
            model, documents, num_streams=num_streams, segment_windows=segment_windows
        )
        assert got.num_tokens == sum(each.num_tokens for each in alone)
        assert got.loss * got.num_tokens == pytest.approx(wanted)


def test_held_out_documents_are_scored_without_changing_anything() -> None:
    """A validation between two steps leaves the second as it would be, with dropout."""
    documents, held_out = make_documents(60, 60), make_documents(20, seed=3)
    plain = make_learner(documents, model={"dropout": 0.1})
    scored = make_learner(documents, held_out, model={"dropout": 0.1})
    assert plain.validate() is None

    results = []
    for learner in (plain, scored):
        learner.learn(1)
        learner.validate()
        results.append(learner.learn(2))

    validation = scored.validate()
    assert results[0] == results[1]
    assert validation is not None
    assert validation.num_tokens == 19
    assert validation.to_dict()["by_position"][0]["first_window"] == 0


def test_the_rate_rises_then_falls_to_a_tenth() -> None:
    """Evenly, then along a cosine; a short run warms up for a tenth of it."""
    options = MelodiOptions(steps=1100, learning_rate=0.5, warmup_steps=100)

    assert options.rate(1) == pytest.approx(0.005)
    assert options.rate(100) == pytest.approx(0.5)
    assert options.rate(600) == pytest.approx(0.275)
    assert options.rate(1100) == pytest.approx(0.05)
    assert MelodiOptions(steps=50).rate(5) == pytest.approx(0.001)
    assert MelodiOptions(steps=9).rate(1) < 0.001
    assert MelodiOptions(steps=10**6, optimizer="adafactor").rate(1000) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"segment_windows": 0}, "segment_windows: got 0, wanted 1 or more"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"optimizer": "sgd"}, "optimizer: got 'sgd', wanted 'adafactor' or 'adamw'"),
        ({"precision": "float16"}, "precision: got 'float16'"),
        ({"learning_rate": -1.0}, "learning_rate: got -1.0, wanted more than 0"),
        ({"clip_norm": math.nan}, "clip_norm: got nan"),
        ({"steps": 10, "warmup_steps": 10}, "warmup_steps: got 10, wanted 0 to 9"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_what_cannot_be_trained_is_refused(options: dict[str, Any], said: str) -> None:
    """With the option and what it was."""
    with pytest.raises(ConfigError, match=said):
        MelodiOptions(**options)


def test_all_architectures_are_trained_here() -> None:
    """A new one wants a test."""
    assert set(ARCHITECTURES) == {each.value for each in Architecture}
