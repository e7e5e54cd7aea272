"""One step of LongVQ: what it learns, what it counts, and how held-out text is scored."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from encoder_jobs.longvq_learner import Learner
from encoder_jobs.longvq_options import LongVQOptions
from encoder_jobs.longvq_pieces import Pieces
from encoder_jobs.longvq_scoring import score_pieces
from encoder_jobs.ragged import Ragged
from memstore.errors import ConfigError, ShapeError
from memstore.models.longvq_config import Attention, KeyGradient, StateSpace
from memstore.models.longvq_quantizer import KeyQuantizer
from tests.tiny_longvq import VOCAB, make_model, tiny_config

NUM_WORDS = VOCAB - 1
"""Ids of a text; the last one of the model hides tokens."""


def make_documents(*lengths: int, seed: int = 1) -> Ragged:
    """Return documents of random tokens."""
    rng = np.random.default_rng(seed)
    return Ragged.of([rng.integers(0, NUM_WORDS, length) for length in lengths])


def make_learner(
    documents: Ragged,
    validation: Ragged | None = None,
    *,
    model: dict[str, Any] | None = None,
    **options: Any,
) -> Learner:
    """Return a learner of two pieces a step."""
    given = {"batch_size": 2, "max_tokens": 24, "steps": 60, "warmup_steps": 0, **options}
    config = tiny_config(**{"is_causal": False, **(model or {})})
    return Learner(config, LongVQOptions(**given), documents, validation)


def quantizers(learner: Learner) -> list[KeyQuantizer]:
    """Return the codebooks by layer."""
    return [each for each in learner.model.modules() if isinstance(each, KeyQuantizer)]


@pytest.mark.parametrize(
    ("is_causal", "state_space"), [(True, StateSpace.EMA), (False, StateSpace.S4D)]
)
def test_a_repeated_text_is_learnt(is_causal: bool, state_space: StateSpace) -> None:
    """The loss falls far below that of guessing, with either objective; codebooks follow."""
    line = np.random.default_rng(0).permutation(NUM_WORDS)
    learner = make_learner(
        Ragged.of([np.tile(line, 5)] * 2),
        model={"is_causal": is_causal, "state_space": state_space},
        learning_rate=0.02,
        max_tokens=60,
        steps=100,
    )
    before = [each.codebook.clone() for each in quantizers(learner)]

    losses = [learner.learn(step).loss for step in range(1, 101)]

    assert losses[0] > 0.8 * math.log(NUM_WORDS)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    for each, codebook in zip(quantizers(learner), before, strict=True):
        assert each.num_updates == 100
        assert not torch.equal(each.codebook, codebook)


def test_micro_batches_add_up_to_the_batch() -> None:
    """Loss and gradient, though documents differ in length, if codebooks keep still and nothing is
    drawn at random.
    """
    documents = make_documents(24, 3, 11, 20)
    model = {"learns_codebook": False, "key_gradient": KeyGradient.LOCAL}
    whole, parts = (
        make_learner(documents, batch_size=4, micro_batch=size, model=model) for size in (4, 3)
    )

    for step in (1, 2):
        wanted, got = whole.learn(step), parts.learn(step)
        assert got.loss == pytest.approx(wanted.loss, rel=1e-5)
        assert got.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-3)
        assert got.num_tokens == wanted.num_tokens == 4 + 1 + 2 + 3


def test_codebooks_forget_alike_whatever_the_micro_batch() -> None:
    """Of a step's two forward passes each moves them half as far, in logarithms."""
    documents = make_documents(24, 24, 24, 24)
    model = {"decay": 0.5}
    learner = make_learner(documents, batch_size=4, micro_batch=2, model=model)

    learner.learn(1)

    for each in quantizers(learner):
        assert each.decay == pytest.approx(math.sqrt(0.5))
        assert each.num_updates == 2


def test_the_loss_is_that_of_tokens_alone() -> None:
    """What keys cost that are far from their centroids is learnt from, and not told."""
    documents = make_documents(20, 20)
    plain, committed = (
        make_learner(documents, model={"commitment": weight}) for weight in (0.0, 10.0)
    )

    wanted, got = plain.learn(1), committed.learn(1)

    assert got.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert got.grad_norm > 1.1 * wanted.grad_norm


def test_the_seed_decides_the_first_weights_order_and_what_is_hidden() -> None:
    """And the caller's own random numbers stay what they were while a learner is made."""
    documents = make_documents(*range(10, 30))
    torch.manual_seed(4)
    wanted = torch.rand(2)
    torch.manual_seed(4)

    first, again, other = (make_learner(documents, seed=seed) for seed in (0, 0, 1))

    assert torch.equal(torch.rand(2), wanted)
    weight = first.model.embedding.weight
    assert torch.equal(weight, again.model.embedding.weight)
    assert not torch.equal(weight, other.model.embedding.weight)
    assert first.learn(1) == again.learn(1)
    assert first.learn(2) != other.learn(2)


def test_checkpointing_changes_nothing() -> None:
    """With dropout too; codebooks move once."""
    documents, model = make_documents(24, 24), {"dropout": 0.1}
    plain, spared = (make_learner(documents, model=model, checkpointing=on) for on in (False, True))

    for step in (1, 2):
        assert spared.learn(step).loss == pytest.approx(plain.learn(step).loss, rel=1e-6)

    assert [int(each.num_updates) for each in quantizers(spared)] == [2, 2]


def test_mixed_precision_keeps_weights_and_codebooks_in_float32() -> None:
    """And gives about the same loss."""
    documents = make_documents(24, 24)
    full, mixed = (make_learner(documents, precision=each) for each in ("float32", "bfloat16"))
    for step in (1, 2):
        wanted, got = full.learn(step).loss, mixed.learn(step).loss

    assert got != wanted
    assert got == pytest.approx(wanted, rel=0.05)
    kept = [*mixed.model.parameters(), *mixed.model.buffers()]
    assert {each.dtype for each in kept} == {torch.float32, torch.int64}


def test_a_step_that_gives_nan_is_not_made() -> None:
    """Weights and codebooks stay; the model itself refuses such values."""
    learner = make_learner(make_documents(24, 24))
    learner.model.embedding.weight.data[VOCAB - 1] = math.nan  # of a hidden token
    before = {name: each.clone() for name, each in learner.model.state_dict().items()}

    result = learner.learn(1)

    assert not result.is_finite
    torch.testing.assert_close(learner.model.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    assert all(each.grad is None for each in learner.model.parameters())


def test_more_codes_than_tokens_are_trained() -> None:
    """A text of two tokens too."""
    learner = make_learner(make_documents(2, 3), model={"num_codes": 40, "window": 50})

    losses = [learner.learn(step).loss for step in (1, 2, 3)]

    assert all(math.isfinite(loss) for loss in losses)


def test_a_collapsed_codebook_is_told() -> None:
    """By layer and head, with how many codes are in use on average."""
    learner = make_learner(make_documents(24, 24))
    assert learner.code_figures() == {
        "code_perplexity": pytest.approx(7.0),
        "collapsed_codebooks": [],
    }

    quantizers(learner)[1].in_use[0] = 1.0

    assert learner.code_figures() == {
        "code_perplexity": pytest.approx((7 + 7 + 1 + 7) / 4),
        "collapsed_codebooks": [[1, 0]],
    }
    assert (
        make_learner(make_documents(9, 9), model={"attention": Attention.BAND}).code_figures() == {}
    )


def test_held_out_text_is_scored_without_changing_anything() -> None:
    """A validation between two steps leaves the second as it would be, with dropout."""
    documents, held_out = make_documents(24, 24), make_documents(20, 30, seed=3)
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
    assert validation == scored.validate()
    assert (validation.num_pieces, validation.num_tokens) == (3, 3 + 4 + 1)
    assert validation.to_dict()["perplexity"] == pytest.approx(math.exp(validation.loss))


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_scores_are_means_over_tokens(batch_size: int) -> None:
    """Of pieces of different lengths, against the documents read one by one."""
    documents = make_documents(30, 2, 11)
    model = make_model(dtype=torch.float32)
    losses = []
    for row in range(3):
        ids = torch.from_numpy(documents[row].astype(np.int64))[None]
        with torch.no_grad():
            logits = model.predict(model(ids[:, :-1]).hidden)
        losses.append(F.cross_entropy(logits[0], ids[0, 1:], reduction="none"))
    wanted = torch.cat(losses)
    pieces = Pieces(documents, model.config, max_tokens=64, seed=0)

    scored = score_pieces(model, pieces, batch_size=batch_size)

    assert scored.loss == pytest.approx(float(wanted.mean()), rel=1e-5)
    assert (scored.num_pieces, scored.num_tokens) == (3, len(wanted))


def test_scoring_a_model_that_is_not_finite_is_refused() -> None:
    """It has no loss."""
    learner = make_learner(make_documents(24, 24), make_documents(24))
    learner.model.embedding.weight.data[:] = math.nan

    with pytest.raises(ShapeError, match="NaN or infinity"):
        learner.validate()


def test_pieces_of_one_token_are_refused() -> None:
    """Nothing would be around a hidden token."""
    with pytest.raises(ConfigError, match="max_tokens: got 1, wanted 2 or more"):
        LongVQOptions(max_tokens=1)
    with pytest.raises(ConfigError, match="micro_batch: got 0"):
        LongVQOptions(micro_batch=0)
