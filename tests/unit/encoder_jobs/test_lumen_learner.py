"""One step of training: what it changes in each mode, and what it does not depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoder_jobs.lumen_data import Examples
from encoder_jobs.lumen_learner import Learner, load_model, make_quantizer
from encoder_jobs.lumen_options import TrainOptions
from memstore import ProductCodec
from memstore.errors import ConfigError, TrainingDivergedError
from memstore.models.folding import fold_rotation
from memstore.models.lumen import Lumen
from tests.tiny_t5 import DIM
from tests.tiny_training import (
    make_options,
    make_vq_options,
    read_examples,
    save_small_t5,
    write_questions,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder, of a model without dropout."""
    return save_small_t5(tmp_path_factory.mktemp("models") / "t5", dropout=0.0)


@pytest.fixture(scope="module")
def examples(t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """24 questions with three passages each."""
    path = write_questions(tmp_path_factory.mktemp("data") / "questions.jsonl", 24)
    return read_examples(path, make_options(t5))


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    """Return a copy of all that a learner holds."""
    return {
        f"{name}.{key}": tensor.clone()
        for name, part in learner.parts.items()
        for key, tensor in part.state_dict().items()
    }


def changed(options: TrainOptions, examples: Examples) -> set[str]:
    """Return which parts a step changes: the modules of the model, and the quantizer's buffers."""
    learner = Learner(options, examples, CPU)
    before = weights(learner)
    assert learner.learn(1).is_finite
    after = weights(learner)
    names = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    return {".".join(name.split(".")[:2]) for name in names}


READER = {"model.question_encoder", "model.generator"}
CODEBOOK = {
    "quantizer.codebook",
    "quantizer.ema_counts",
    "quantizer.ema_sums",
    "quantizer.num_updates",
}


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (None, READER),
        ("none", {"model.memory_encoder", *READER, *CODEBOOK}),
        ("memory-encoder", {*READER, *CODEBOOK}),
        ("all", CODEBOOK),
    ],
)
def test_each_mode_changes_what_it_trains(
    t5: Path, examples: Examples, mode: str | None, wanted: set[str]
) -> None:
    """LUMEN, then LUMEN-VQ joint, with a frozen memory encoder, and post hoc."""
    options = make_options(t5) if mode is None else make_vq_options(t5, freeze=mode)

    assert changed(options, examples) == wanted


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("is_quantized", [False, True])
def test_the_loss_goes_down(
    t5: Path, examples: Examples, optimizer: str, is_quantized: bool
) -> None:
    """On a task of 24 questions, with either optimizer, through a quantizer too."""
    make = make_vq_options if is_quantized else make_options
    rate = 0.01 if optimizer == "adamw" else 0.1
    learner = Learner(make(t5, optimizer=optimizer, learning_rate=rate), examples, CPU)

    losses = [learner.learn(step).loss for step in range(1, 31)]

    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:3])


@pytest.mark.parametrize("live_fraction", ["0", "1"])
@pytest.mark.parametrize("make", [make_options, make_vq_options])
def test_every_cut_is_trained(
    examples: Examples, tmp_path: Path, live_fraction: str, make: Callable[..., TrainOptions]
) -> None:
    """Pure memory and FiD, of a T5 v1.1."""
    t5 = save_small_t5(tmp_path / "t5", is_gated=True)
    options = make(t5, live_fraction=live_fraction, optimizer="adamw")
    learner = Learner(options, examples, CPU)

    losses = [learner.learn(step).loss for step in range(1, 9)]

    assert losses[-1] < losses[0]


def test_micro_batches_add_up_to_the_batch(t5: Path, examples: Examples) -> None:
    """Loss and gradient are the batch's, though answers and passages differ in length."""
    whole, parts = (
        Learner(make_options(t5, micro_batch=size), examples, CPU).learn(1) for size in (8, 3)
    )

    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)


def test_averages_reach_back_over_as_many_batches(t5: Path, examples: Examples) -> None:
    """However many micro-batches these have."""
    model = load_model(make_vq_options(t5))
    decays = []
    for size in (8, 2):
        quantizer = make_quantizer(make_vq_options(t5, micro_batch=size), model, examples)
        assert quantizer is not None
        decays.append(quantizer.decay ** (8 // size))

    assert decays == pytest.approx([0.999, 0.999])


def test_mixed_precision_keeps_weights_in_float32(t5: Path, examples: Examples) -> None:
    """And gives about the same loss."""
    full = Learner(make_options(t5, precision="float32"), examples, CPU)
    mixed = Learner(make_options(t5, precision="bfloat16"), examples, CPU)

    wanted, got = full.learn(1).loss, mixed.learn(1).loss

    assert got != wanted
    assert got == pytest.approx(wanted, rel=0.02)
    assert {each.dtype for each in mixed.model.parameters()} == {torch.float32}


def test_the_first_codebook_follows_the_memories(t5: Path, examples: Examples) -> None:
    """It has less error than one of other memories; the same seed gives the same."""
    first, again, other = (
        Learner(make_vq_options(t5, seed=seed), examples, CPU).parts["quantizer"]
        for seed in (0, 0, 1)
    )

    assert torch.equal(first.codebook, again.codebook)  # type: ignore[arg-type]
    assert not torch.equal(first.codebook, other.codebook)  # type: ignore[arg-type]
    assert (first.usage_perplexity() >= 1).all()  # type: ignore[operator]


@pytest.mark.parametrize("stages", [{}, {"rotation": "pca", "predictor": "token"}])
def test_a_codec_is_started_from(
    t5: Path, examples: Examples, tmp_path: Path, stages: dict[str, Any]
) -> None:
    """Its stages stay as they are, its codebook is trained on."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 34, 400).astype(np.int32)
    vocabulary = rng.standard_normal((34, DIM)).astype(np.float32)
    vectors = vocabulary[ids] + rng.standard_normal((400, DIM)).astype(np.float32)
    told: dict[str, Any] = {
        "token_ids": ids,
        "offsets": np.arange(0, 401, 8),
        "vocabulary": vocabulary,
    }
    told = {**told, **stages} if stages else {}
    codec = ProductCodec.train(vectors, num_subspaces=4, codebook_size=8, seed=0, **told)
    codec.save(tmp_path / "codec")
    options = make_vq_options(
        t5, codec=str(tmp_path / "codec"), num_subspaces=None, codebook_size=None
    )

    learner = Learner(options, examples, CPU)
    started = learner.parts["quantizer"].to_codec()  # type: ignore[operator]
    assert learner.learn(1).is_finite

    assert started.id == codec.id
    trained = learner.parts["quantizer"].to_codec()  # type: ignore[operator]
    assert trained.id != codec.id
    assert (trained.rotation is None) == (codec.rotation is None)
    if codec.rotation is not None:
        np.testing.assert_array_equal(trained.rotation.blocks, codec.rotation.blocks)


def test_a_codec_of_another_width_is_refused(
    t5: Path, examples: Examples, tmp_path: Path, codec: ProductCodec
) -> None:
    """With both widths."""
    vectors = np.random.default_rng(0).standard_normal((80, 2 * DIM)).astype(np.float32)
    ProductCodec.train(vectors, num_subspaces=4, codebook_size=4).save(tmp_path / "codec")
    options = make_vq_options(
        t5, codec=str(tmp_path / "codec"), num_subspaces=None, codebook_size=None
    )

    with pytest.raises(ConfigError, match=f"is of {2 * DIM} dimensions, .* have {DIM}"):
        Learner(options, examples, CPU)


def test_more_centroids_than_memories_are_refused(t5: Path, examples: Examples) -> None:
    """With how many there may be."""
    num_memories = len(examples.passages.values)

    with pytest.raises(ConfigError, match=f"got 4096, wanted at most {num_memories}"):
        Learner(make_vq_options(t5, codebook_size=4096), examples, CPU)


def test_a_cut_through_a_layer_is_refused(t5: Path) -> None:
    """With the nearest that are none."""
    with pytest.raises(ConfigError, match="wanted whole layers: the nearest are 0 and 1/2"):
        load_model(make_options(t5, live_fraction="1/3"))


def test_a_folded_model_is_refused(t5: Path, tmp_path: Path) -> None:
    """Training wants memories as the encoder makes them."""
    model = Lumen.from_pretrained(t5, live_fraction="1/2")
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, DIM)))[0]
    fold_rotation(model, turn).save_pretrained(tmp_path / "folded", t5 / "tokenizer.json")

    with pytest.raises(ConfigError, match="has a codec's rotation folded in"):
        load_model(make_options(tmp_path / "folded", live_fraction=""))


def test_a_start_that_makes_no_finite_memories_is_told(t5: Path, examples: Examples) -> None:
    """Before the first step, when the codebook is drawn from them."""
    model = Lumen.from_pretrained(t5, live_fraction="1/2")
    model.memory_encoder.embed_tokens.weight.data.fill_(torch.nan)
    model.save_pretrained(t5.parent / "broken", t5 / "tokenizer.json")
    with pytest.raises(TrainingDivergedError, match="before step 1: memories: row 0 holds NaN"):
        Learner(make_vq_options(t5.parent / "broken", live_fraction=""), examples, CPU)


def test_codes_in_use_are_those_of_the_batch(t5: Path, examples: Examples) -> None:
    """A codebook whose memories are all alike has one, from the first step on."""
    learner = Learner(make_vq_options(t5), examples, CPU)
    learner.model.memory_encoder.embed_tokens.weight.data.zero_()
    assert learner.learn(1).perplexity == pytest.approx(1.0)


@pytest.mark.parametrize("is_quantized", [False, True])
def test_a_step_whose_loss_is_not_finite_is_not_made(
    t5: Path, examples: Examples, is_quantized: bool
) -> None:
    """Weights stay; with a quantizer, memories that are not finite do not reach it."""
    make = make_vq_options if is_quantized else make_options
    learner = Learner(make(t5, freeze="none"), examples, CPU)
    learner.model.memory_encoder.embed_tokens.weight.data.fill_(torch.nan)
    before = weights(learner)

    result = learner.learn(1)

    assert not result.is_finite
    torch.testing.assert_close(weights(learner), before, rtol=0, atol=0, equal_nan=True)
