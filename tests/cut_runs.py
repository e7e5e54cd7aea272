"""Training runs that are cut off, and what is left of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from encoder_jobs.training_folder import TrainingFolder
from encoder_jobs.training_workers import RunSteps
from memstore.models.checkpoints import read_checkpoint

CPU = torch.device("cpu")


class Cut(Exception):
    """The run is cut off here."""


def run_until(run_steps: RunSteps[Any], folder: TrainingFolder[Any], last_step: int) -> None:
    """Run, and cut it off after a step."""

    def cut(step: int, _row: object) -> None:
        if step == last_step:
            raise Cut

    with pytest.raises(Cut):
        run_steps(folder, CPU, cut)


def last_tensors(folder: TrainingFolder[Any]) -> dict[str, torch.Tensor]:
    """Return all that the last checkpoint holds."""
    path = folder.root / "checkpoints" / f"step-{folder.checkpoints.last_step:09d}"
    return read_checkpoint(path, kind="training")[1]


def figures(folder: TrainingFolder[Any]) -> list[dict[str, Any]]:
    """Return the rows of metrics but for their times."""
    return [{**row, "seconds": 0} for row in folder.metrics.rows()]
