"""The training loop: it goes on where it was cut off, scores, and stops in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from encoder_jobs.checkpointing import Checkpoints
from encoder_jobs.lumen_options import TrainOptions
from encoder_jobs.lumen_training import run_steps
from memstore.errors import TrainingDivergedError
from tests.cut_runs import CPU, figures, last_tensors, run_until
from tests.tiny_training import make_options, make_vq_options, save_small_t5, start_run


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder, of a model with dropout."""
    return save_small_t5(tmp_path_factory.mktemp("models") / "t5")


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
def test_a_run_cut_off_anywhere_ends_with_the_same_weights(
    t5: Path, tmp_path: Path, optimizer: str
) -> None:
    """To the bit, with dropout, a quantizer and its averages, after every step; metrics too."""
    options = make_vq_options(t5, optimizer=optimizer, micro_batch=4)
    undisturbed = start_run(tmp_path / "undisturbed", options)
    run_steps(undisturbed, CPU)
    wanted = last_tensors(undisturbed)

    for cut_after in range(1, options.steps + 1):
        folder = start_run(tmp_path / f"cut-{cut_after}", options)
        run_until(run_steps, folder, cut_after)
        run_steps(folder, CPU)

        assert folder.checkpoints.last_step == options.steps
        torch.testing.assert_close(last_tensors(folder), wanted, rtol=0, atol=0)
        assert figures(folder) == figures(undisturbed)


def test_training_leaves_the_random_state_of_its_caller(t5: Path, tmp_path: Path) -> None:
    """A notebook's own numbers stay what they would have been."""
    folder = start_run(tmp_path / "run", make_options(t5, steps=1))
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)

    run_steps(folder, CPU)

    assert torch.equal(torch.rand(3), wanted)


def test_held_out_questions_are_scored_now_and_then(t5: Path, tmp_path: Path) -> None:
    """At every so many steps, and at the last."""
    options = make_options(t5, steps=3, validate_every=2)
    folder = start_run(tmp_path / "run", options, held_out_seed=1)

    run_steps(folder, CPU)

    scored = [row for row in folder.metrics.rows() if "validation_em" in row]
    assert [row["step"] for row in scored] == [2, 3]
    assert all(0 <= row["validation_em"] <= row["validation_f1"] <= 1 for row in scored)


def test_scoring_does_not_change_what_is_learnt(t5: Path, tmp_path: Path) -> None:
    """Neither weights nor codebook."""
    options = make_vq_options(t5, steps=3, validate_every=1)
    plain = start_run(tmp_path / "plain", options)
    scored = start_run(tmp_path / "scored", options, held_out_seed=1)

    run_steps(plain, CPU)
    run_steps(scored, CPU)

    torch.testing.assert_close(last_tensors(scored), last_tensors(plain), rtol=0, atol=0)


def test_what_was_learnt_by_heart_is_scored_right(t5: Path, tmp_path: Path) -> None:
    """The one question of training is the one that is held out."""
    options = make_options(t5, steps=40, batch_size=4, validate_every=40, optimizer="adamw")
    folder = start_run(tmp_path / "run", options, count=1, held_out_seed=0)

    run_steps(folder, CPU)

    last = folder.metrics.last()
    assert last is not None
    assert (last["validation_em"], last["validation_f1"]) == (1, 1)


@pytest.mark.parametrize("make", [make_options, make_vq_options])
def test_a_loss_that_is_not_finite_stops_the_run(t5: Path, tmp_path: Path, make: Any) -> None:
    """With the step; the checkpoint before it stays."""
    options: TrainOptions = make(t5, learning_rate=1e30, optimizer="adamw", checkpoint_every=1)
    folder = start_run(tmp_path / "run", options)

    with pytest.raises(
        TrainingDivergedError, match=r"step 2 has a loss of .*checkpoint of step 1 is kept"
    ) as e:
        run_steps(folder, CPU)

    assert e.value.details == {"step": "2", "checkpoint": "1"}
    assert Checkpoints(folder.root / "checkpoints").last_step == 1
    assert [row["step"] for row in folder.metrics.rows()] == [1]


def test_a_finished_run_makes_no_step(t5: Path, tmp_path: Path) -> None:
    """Not even its model is loaded."""
    folder = start_run(tmp_path / "run", make_options(t5, steps=1))
    run_steps(folder, CPU)
    before = folder.metrics.rows()

    run_steps(folder, CPU, lambda *_: pytest.fail("a step was made"))

    assert folder.metrics.rows() == before
