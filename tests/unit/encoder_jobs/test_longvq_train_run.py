"""A run in its folder: it goes on where it was cut off, stops in time, and tells of codebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoder_jobs.longvq_job import LongVQFolder, describe, run_steps
from encoder_jobs.longvq_options import LongVQOptions
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_text_folder import TextSpec
from memstore.errors import AlreadyExistsError, TrainingDivergedError
from memstore.models.longvq_config import StateSpace
from tests.cut_runs import CPU, figures, last_tensors, run_until
from tests.tiny_longvq import VOCAB, tiny_config


def start_run(root: Path, *, model: dict[str, Any] | None = None, **options: Any) -> LongVQFolder:
    """Make the folder of a run before its first step: three pieces a step, some documents cut."""
    rng = np.random.default_rng(2)
    train, held_out = (
        Ragged.of([rng.integers(0, VOCAB - 1, length) for length in lengths])
        for lengths in ((50, 9, 3, 44, 30), (25, 6))
    )
    given: dict[str, Any] = {
        "max_tokens": 16,
        "steps": 5,
        "batch_size": 3,
        "micro_batch": 2,
        "checkpoint_every": 2,
        "validate_every": 2,
        **options,
    }
    folder = LongVQFolder(root)
    folder.put_spec(
        TextSpec(
            model=tiny_config(**{"is_causal": False, "dropout": 0.1, **(model or {})}),
            options=LongVQOptions(**given),
            tokenizer_sha256="",
            corpus_sha256="",
            validation_sha256="",
            held_out=0.0,
            num_workers=1,
        )
    )
    folder.put_documents(train, held_out, b"{}")
    return folder


@pytest.mark.parametrize(
    ("model", "cuts"),
    [({}, range(1, 6)), ({"is_causal": True, "state_space": StateSpace.S4D}, (3,))],
    ids=["denoising", "causal"],
)
def test_a_run_cut_off_anywhere_ends_as_one_that_was_not(
    tmp_path: Path, model: dict[str, Any], cuts: range
) -> None:
    """To the bit: weights, codebooks, optimizer, metrics; with dropout and into a second epoch."""
    undisturbed = start_run(tmp_path / "undisturbed", model=model)
    run_steps(undisturbed, CPU)
    wanted = last_tensors(undisturbed)

    for cut_after in cuts:
        folder = start_run(tmp_path / f"cut-{cut_after}", model=model)
        run_until(run_steps, folder, cut_after)
        run_steps(folder, CPU)

        torch.testing.assert_close(last_tensors(folder), wanted, rtol=0, atol=0)
        assert figures(folder) == figures(undisturbed)
    rows = figures(undisturbed)
    assert [row["step"] for row in rows if "validation" in row] == [2, 4, 5]
    assert any(name.endswith("quantizer.counts") for name in wanted)


def test_codebooks_are_told_of_without_validation_too(tmp_path: Path) -> None:
    """At the same steps."""
    folder = start_run(tmp_path / "run")
    documents, _ = folder.documents()
    bare = LongVQFolder(tmp_path / "bare")
    bare.put_spec(folder.spec())
    bare.put_documents(documents, None, b"{}")

    run_steps(bare, CPU)

    rows = figures(bare)
    assert [row["step"] for row in rows if "code_perplexity" in row] == [2, 4, 5]
    assert not any("validation" in row for row in rows)


def test_what_is_said_of_a_step_names_collapsed_codebooks() -> None:
    """And nothing of a step without validation."""
    row = {
        "validation": {"perplexity": 12.345},
        "code_perplexity": 3.21,
        "collapsed_codebooks": [[0, 1], [2, 0]],
    }

    assert describe(row) == (
        "validation perplexity 12.35, 3.2 codes in use, "
        "collapsed codebooks: layer 0 head 1, layer 2 head 0"
    )
    assert describe({"code_perplexity": 8.0, "collapsed_codebooks": []}) == "8.0 codes in use"
    assert describe({"loss": 1.0}) == ""


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    """With the step; the checkpoint before it stays."""
    folder = start_run(tmp_path / "run", learning_rate=1e30, checkpoint_every=1, validate_every=5)

    with pytest.raises(
        TrainingDivergedError, match=r"step 2 has a loss of .*checkpoint of step 1 is kept"
    ) as caught:
        run_steps(folder, CPU)

    assert caught.value.details == {"step": "2", "checkpoint": "1"}
    assert folder.checkpoints.last_step == 1
    assert [row["step"] for row in folder.metrics.rows()] == [1]


def test_a_validation_that_is_not_finite_stops_the_run_before_its_checkpoint(
    tmp_path: Path,
) -> None:
    """The weights of that step are of no use to anyone."""
    folder = start_run(tmp_path / "run", learning_rate=1e30, checkpoint_every=1, validate_every=1)

    with pytest.raises(
        TrainingDivergedError, match=r"step 1 has held-out values of NaN .*no checkpoint before it"
    ):
        run_steps(folder, CPU)

    assert folder.checkpoints.last_step == 0


def test_a_folder_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    """Of the model or the options; its own is known again."""
    folder = start_run(tmp_path / "run")
    spec, other = folder.spec(), start_run(tmp_path / "other", model={"dim": 8}, seed=4).spec()

    folder.check(spec)
    with pytest.raises(AlreadyExistsError) as caught:
        folder.check(other)

    assert caught.value.details["fields"] == "dim, seed"
    assert spec == folder.spec()
