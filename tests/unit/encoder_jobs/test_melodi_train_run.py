"""A run in its folder: it goes on where it was cut off, stops in time, and is known again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoder_jobs import melodi_learner
from encoder_jobs.lumen_folder import RunFolder
from encoder_jobs.lumen_options import TrainOptions
from encoder_jobs.melodi_folder import MelodiFolder
from encoder_jobs.melodi_job import run_steps
from encoder_jobs.melodi_options import MelodiOptions
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_text_folder import TextSpec
from memstore.codec import ProductCodec
from memstore.errors import (
    AlreadyExistsError,
    ConfigError,
    CorruptionError,
    TrainingDivergedError,
)
from memstore.models.checkpoints import collect_weights, write_checkpoint
from memstore.models.melodi import Melodi
from tests.cut_runs import CPU, figures, last_tensors, run_until
from tests.tiny_melodi import VARIANTS, VOCAB, tiny_config
from tests.tiny_training import make_spec


def start_run(root: Path, *, model: dict[str, Any] | None = None, **options: Any) -> MelodiFolder:
    """Make the folder of a run before its first step: three streams, some of many segments."""
    rng = np.random.default_rng(2)
    train, held_out = (
        Ragged.of([rng.integers(0, VOCAB, length) for length in lengths])
        for lengths in ((70, 9, 3, 44, 30), (25, 6))
    )
    given: dict[str, Any] = {
        "segment_windows": 2,
        "steps": 5,
        "batch_size": 3,
        "micro_batch": 2,
        "checkpoint_every": 2,
        "validate_every": 2,
        **options,
    }
    spec = TextSpec(
        model=tiny_config(**{"dropout": 0.1, **(model or {})}),
        options=MelodiOptions(**given),
        tokenizer_sha256="",
        corpus_sha256="",
        validation_sha256="",
        held_out=0.0,
        num_workers=1,
    )
    folder = MelodiFolder(root)
    folder.put_spec(spec)
    folder.put_documents(train, held_out, b"{}")
    return folder


def change_checkpoint(
    folder: MelodiFolder, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    """Write the last checkpoint anew, with something changed."""
    tensors, step = last_tensors(folder), folder.checkpoints.last_step
    change(tensors)
    path = folder.root / "checkpoints" / f"step-{step:09d}"
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    shutil.rmtree(path)
    write_checkpoint(path, kind="training", config={"step": step}, tensors=kept)


@pytest.mark.parametrize(
    ("architecture", "optimizer", "cuts"),
    [
        ("melodi", "adamw", range(1, 6)),
        ("melodi", "adafactor", (3,)),
        ("transformer-xl", "adamw", (3,)),
        ("memorizing", "adafactor", (3,)),
        ("block-recurrent", "adamw", (3,)),
    ],
)
def test_a_run_cut_off_anywhere_ends_as_one_that_was_not(
    tmp_path: Path, architecture: str, optimizer: str, cuts: Sequence[int]
) -> None:
    """To the bit: weights, optimizer, memory, places in the text, metrics; with dropout."""
    changes: dict[str, Any] = {"model": VARIANTS[architecture], "optimizer": optimizer}
    undisturbed = start_run(tmp_path / "undisturbed", **changes)
    run_steps(undisturbed, CPU)
    wanted = last_tensors(undisturbed)

    for cut_after in cuts:
        folder = start_run(tmp_path / f"cut-{cut_after}", **changes)
        run_until(run_steps, folder, cut_after)
        run_steps(folder, CPU)

        torch.testing.assert_close(last_tensors(folder), wanted, rtol=0, atol=0)
        assert figures(folder) == figures(undisturbed)
    assert [row["step"] for row in figures(undisturbed) if "validation" in row] == [2, 4, 5]
    assert any(name.startswith("carried.1.") for name in wanted)


def test_a_run_with_a_codec_goes_on_too(tmp_path: Path) -> None:
    """From a source, to the bit; the codec learns with the model, and is not a part of it."""
    start = Melodi(tiny_config(**VARIANTS["melodi"], dropout=0.1))
    start.save_pretrained(tmp_path / "source", b"{}")
    entries = np.random.default_rng(0).standard_normal((200, 16), np.float32)
    ProductCodec.train(entries, num_subspaces=4, codebook_size=16).save(tmp_path / "start")
    paths = {"source": str(tmp_path / "source"), "codec": str(tmp_path / "start")}
    changes: dict[str, Any] = {"model": VARIANTS["melodi"], "micro_batch": 1, **paths}
    undisturbed = start_run(tmp_path / "undisturbed", **changes)
    run_steps(undisturbed, CPU)
    wanted = last_tensors(undisturbed)

    folder = start_run(tmp_path / "cut", **changes)
    run_until(run_steps, folder, 3)
    run_steps(folder, CPU)

    torch.testing.assert_close(last_tensors(folder), wanted, rtol=0, atol=0)
    (name,) = (name for name in wanted if name.endswith("quantizer.codebook"))
    begun = ProductCodec.load(tmp_path / "start").codebook.astype(np.float32)
    assert not np.array_equal(wanted[name].numpy(), begun)
    assert not any("quantizer" in each for each in collect_weights(start))


def test_a_codec_wants_micro_batches_that_are_shared_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process would wait for ever for what another does not send."""
    entries = np.random.default_rng(0).standard_normal((200, 16), np.float32)
    ProductCodec.train(entries, num_subspaces=4, codebook_size=16).save(tmp_path / "codec")
    folder = start_run(
        tmp_path / "run", model=VARIANTS["melodi"], micro_batch=1, codec=str(tmp_path / "codec")
    )
    monkeypatch.setattr(melodi_learner, "num_ranks", lambda: 2)
    with pytest.raises(ConfigError, match="micro_batch: got 1, wanted a size that gives each of 2"):
        run_steps(folder, CPU)


def test_what_is_remembered_decides_the_next_step(tmp_path: Path) -> None:
    """A run that forgets it when it goes on ends elsewhere: the test above would see that."""
    whole, folder = (start_run(tmp_path / name, model={"dropout": 0.0}) for name in "ab")
    run_steps(whole, CPU)
    run_until(run_steps, folder, 2)
    change_checkpoint(folder, lambda tensors: tensors["carried.0.short"].zero_())

    run_steps(folder, CPU)

    assert figures(folder)[2]["loss"] != figures(whole)[2]["loss"]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    """With the step; the checkpoint before it stays."""
    folder = start_run(tmp_path / "run", learning_rate=1e30, checkpoint_every=1)

    with pytest.raises(
        TrainingDivergedError, match=r"step 2 has a loss of .*checkpoint of step 1 is kept"
    ) as caught:
        run_steps(folder, CPU)

    assert caught.value.details == {"step": "2", "checkpoint": "1"}
    assert folder.checkpoints.last_step == 1
    assert [row["step"] for row in folder.metrics.rows()] == [1]


def test_a_checkpoint_of_other_streams_is_refused(tmp_path: Path) -> None:
    """It says nothing of what they remember."""
    folder = start_run(tmp_path / "run", model=VARIANTS["melodi"])
    run_until(run_steps, folder, 2)
    change_checkpoint(folder, lambda tensors: tensors.pop("carried.0.queue"))

    with pytest.raises(CorruptionError, match=r"of 0 got \['position', 'short'\], wanted"):
        run_steps(folder, CPU)


def test_a_folder_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    """Of the model, the options, or the text."""
    folder = start_run(tmp_path / "run")
    spec, other = folder.spec(), start_run(tmp_path / "other", model={"dim": 8}, seed=4).spec()

    folder.check(spec)
    with pytest.raises(AlreadyExistsError) as caught:
        folder.check(other)

    assert caught.value.details["fields"] == "dim, seed"
    assert "dim 16 there, 8 asked" in str(caught.value)


def test_a_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A LUMEN run, and something that is no run."""
    lumen = RunFolder(tmp_path / "lumen")
    lumen.put_spec(make_spec(TrainOptions(source="t5")))
    spec = start_run(tmp_path / "run").spec()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")

    with pytest.raises(AlreadyExistsError, match="a training run of 'lumen', wanted one of 'mel"):
        MelodiFolder(tmp_path / "lumen").check(spec)
    with pytest.raises(AlreadyExistsError, match="something that is no training run"):
        MelodiFolder(tmp_path / "notes").check(spec)


def test_documents_come_back(tmp_path: Path) -> None:
    """As they were, with and without held-out ones."""
    documents = Ragged.of([[1, 2, 3], [4, 5]])
    folder = MelodiFolder(tmp_path)

    folder.put_documents(documents, None, b"tokens")

    train, held_out = folder.documents()
    assert held_out is None
    assert [train[row].tolist() for row in range(2)] == [[1, 2, 3], [4, 5]]
    assert folder.tokenizer() == b"tokens"
