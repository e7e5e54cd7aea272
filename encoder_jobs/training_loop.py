"""The training loop: steps, validation, checkpoints; the same for one process and for a group.

A run that was cut off goes on from its last checkpoint and ends with the same weights as one that
was not, on machines of the same kind: what is random follows from the number of the step. (Some
kernels of GPUs add in no fixed order; there it is the same to rounding.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import torch

from encoder_jobs.checkpointing import Checkpoint, Parts
from encoder_jobs.freed_memory import freed_memory_kept
from encoder_jobs.training_folder import TrainingFolder
from encoder_jobs.training_steps import rank
from memstore.errors import NotFiniteError, TrainingDivergedError

Row = Mapping[str, Any]
OnStep = Callable[[int, Row], object]


class StepResult(Protocol):
    """What a step did."""

    @property
    def loss(self) -> float:
        """Of the batch."""
        ...

    @property
    def grad_norm(self) -> float:
        """Length of the gradient."""
        ...

    @property
    def is_finite(self) -> bool:
        """The step was made; else the weights are as before it."""
        ...

    def to_row(self) -> dict[str, Any]:
        """Return the figures as JSON values, for a row of metrics."""
        ...


class Learner(Protocol):
    """What is trained, on one device."""

    @property
    def parts(self) -> Parts:
        """The modules by name."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """None if nothing has a gradient."""
        ...

    def learn(self, step: int) -> StepResult:
        """Make one step, the `step`-th, counted from 1; none if its loss is not finite."""
        ...

    def carried(self) -> Mapping[str, torch.Tensor]:
        """Return what else the next step depends on; every process of a group calls this."""
        ...


LearnerT = TypeVar("LearnerT", bound=Learner)


class Plan(Protocol):
    """What the loop asks of a run's options, all in steps."""

    @property
    def steps(self) -> int:
        """How many there are."""
        ...

    @property
    def validate_every(self) -> int:
        """From one validation to the next."""
        ...

    @property
    def checkpoint_every(self) -> int:
        """From one checkpoint to the next."""
        ...


def make_steps(
    folder: TrainingFolder[Any],
    plan: Plan,
    device: torch.device,
    *,
    start: Callable[[torch.device, Checkpoint | None], LearnerT],
    validate: Callable[[LearnerT], Row] | None = None,
    on_step: OnStep | None = None,
) -> None:
    """Make the steps that a run still lacks; its last checkpoint is then of its last step.

    Every process of a group calls this; the first one writes.

    Args:
        folder: of the run.
        plan: how many steps there are, and what comes between them.
        device: where this process computes.
        start: makes the learner, as it was at a checkpoint if there is one.
        validate: returns figures on held-out data; None: there is none.
        on_step: called after each step with its number and its row of metrics.

    Raises:
        TrainingDivergedError: if the loss, the gradient or what validation sees is not finite:
            nothing of that step is kept.
        StorageFullError, StorageError: if the folder cannot be written.
        MemstoreError: as `start`.
    """
    done = folder.checkpoints.last_step
    if done >= plan.steps:
        return
    writes = rank() == 0
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), freed_memory_kept():
        # No name for the checkpoint: it takes as much memory as the learner.
        learner = start(device, folder.checkpoints.read(done) if done else None)
        if writes:
            folder.metrics.keep(done)
        for step in range(done + 1, plan.steps + 1):
            began = time.monotonic()
            result = learner.learn(step)
            if not result.is_finite:
                got = f"a loss of {result.loss} and a gradient of length {result.grad_norm}"
                raise _diverged(folder, step, got)
            row = {"step": step, **result.to_row(), "seconds": round(time.monotonic() - began, 4)}
            if validate is not None and _is_due(step, plan.validate_every, plan):
                try:
                    row |= validate(learner)
                except NotFiniteError as err:
                    raise _diverged(folder, step, "held-out values of NaN or infinity") from err
            if writes:
                folder.metrics.append(row)
            if _is_due(step, plan.checkpoint_every, plan):
                carried = learner.carried()
                if writes:
                    folder.checkpoints.write(step, learner.parts, learner.optimizer, carried)
            if on_step is not None:
                on_step(step, row)


def _is_due(step: int, every: int, plan: Plan) -> bool:
    return step % every == 0 or step == plan.steps


def _diverged(folder: TrainingFolder[Any], step: int, got: str) -> TrainingDivergedError:
    last = folder.checkpoints.last_step
    kept = f"the checkpoint of step {last} is kept" if last else "there is no checkpoint before it"
    return TrainingDivergedError(
        f"{folder.root}: step {step} has {got}, wanted finite ones; training stopped, {kept}; "
        "train to another folder with a lower --learning-rate or with --precision float32",
        step=step,
        checkpoint=last,
    )
