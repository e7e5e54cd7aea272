"""The folder of a run: which run it is of, and its rows of metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder_jobs.lumen_folder import RunFolder
from encoder_jobs.lumen_options import TrainOptions
from encoder_jobs.training_folder import Metrics
from memstore.errors import AlreadyExistsError, CorruptionError
from tests.tiny_training import make_spec

OPTIONS = TrainOptions(source="t5")


def test_a_folder_of_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    """Every differing field, with both values; and the rest is not listed."""
    folder = RunFolder(tmp_path / "run")
    folder.put_spec(make_spec(OPTIONS))
    other = TrainOptions(source="t5", learning_rate=0.5, seed=3)

    with pytest.raises(AlreadyExistsError) as caught:
        folder.check(make_spec(other, num_workers=2))

    assert "learning_rate 0.0001 there, 0.5 asked" in str(caught.value)
    assert caught.value.details["fields"] == "num_workers, learning_rate, seed"


def test_the_same_run_is_taken_up_from_a_moved_model(tmp_path: Path) -> None:
    """Model and codec are known by their digests."""
    folder = RunFolder(tmp_path / "run")
    spec = make_spec(OPTIONS)
    folder.put_spec(spec)

    folder.check(make_spec(TrainOptions(source="elsewhere/t5")))

    assert folder.spec() == spec


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    """An empty one is taken."""
    folder = RunFolder(tmp_path)
    folder.check(make_spec(OPTIONS))
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(AlreadyExistsError, match="holds something that is no training run"):
        folder.check(make_spec(OPTIONS))


def test_a_damaged_spec_is_named(tmp_path: Path) -> None:
    """Nothing is guessed from it."""
    (tmp_path / "training.json").write_text('{"options": {')

    with pytest.raises(CorruptionError, match=r"training\.json: is not the spec"):
        RunFolder(tmp_path).spec()


def test_metrics_drop_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    """A row that was cut off too."""
    metrics = Metrics(tmp_path / "metrics.jsonl")
    assert metrics.last() is None
    for step in (1, 2, 3):
        metrics.append({"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')

    metrics.keep(2)
    metrics.append({"step": 3})

    assert [row["step"] for row in metrics.rows()] == [1, 2, 3]
    assert metrics.last() == {"step": 3}
