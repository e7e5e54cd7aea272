"""Training whose rate rises and falls: its options, and how a step of it ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import nn

from encoder_jobs.training_options import PRECISIONS, check_options, refused
from encoder_jobs.training_steps import is_finite, update

_COUNTS = ("steps", "batch_size", "micro_batch", "validate_every", "checkpoint_every")
_WARMUP_STEPS = 1000
_WARMUP_SHARE = 10  # of a short run, one step in so many at most
_LAST_RATE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledOptions:
    """How a model of text is trained, whichever it is.

    Attributes:
        steps: updates of the weights.
        batch_size: rows of tokens in a step, over all workers.
        micro_batch: of them, those that go through the model together, on each worker.
        learning_rate: the highest; None: `default_rate`.
        warmup_steps: it rises to that evenly, then falls along a cosine to a tenth of it; None:
            1,000, of a short run a tenth.
        clip_norm: a longer gradient is shortened to this.
        precision: `"float32"`, `"bfloat16"` (mixed: weights stay float32) or `"auto"`: bfloat16 on
            a GPU.
        seed: decides the first weights, the order of documents, which are held out, and all else
            that is random.
        validate_every, checkpoint_every: steps.

    Raises:
        ConfigError: if a value is out of range.
    """

    steps: int = 10_000
    batch_size: int = 8
    micro_batch: int = 8
    learning_rate: float | None = None
    warmup_steps: int | None = None
    clip_norm: float = 1.0
    precision: str = "auto"
    seed: int = 0
    validate_every: int = 500
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        check_options(
            self,
            choices={"precision": PRECISIONS},
            counts=_COUNTS,
            positives=("clip_norm", "learning_rate"),
        )
        if self.warmup_steps is not None and not 0 <= self.warmup_steps < self.steps:
            raise refused("warmup_steps", self.warmup_steps, f"0 to {self.steps - 1}")

    @property
    def default_rate(self) -> float:
        """The highest rate if none is given."""
        return 1e-3

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        highest = self.learning_rate or self.default_rate
        warmup = self.warmup_steps
        if warmup is None:
            warmup = min(_WARMUP_STEPS, self.steps // _WARMUP_SHARE)
        if step <= warmup:
            return highest * step / warmup
        share = (step - warmup) / (self.steps - warmup)  # above 0, and 1 at the last step
        falling = (1 + math.cos(math.pi * share)) / 2
        return highest * (_LAST_RATE + (1 - _LAST_RATE) * falling)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read back what `to_dict` wrote."""
        return cls(**values)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did.

    Attributes:
        loss: mean cross-entropy of a token, over the batch, in nats.
        grad_norm: length of the gradient, before it was shortened.
        learning_rate: of the step.
        num_tokens: tokens that were predicted.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    num_tokens: int

    @property
    def is_finite(self) -> bool:
        """The step was made; else the weights are as before it, and what is carried is spoilt."""
        return is_finite(self.loss, self.grad_norm)

    def to_row(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


def finish_step(
    step: int,
    options: ScheduledOptions,
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    *,
    loss: float,
    num_tokens: int,
) -> StepResult:
    """Make the optimizer's step at the rate of its number, with the gradients of all processes.

    Args:
        step: counted from 1.
        options: with the schedule and `clip_norm`.
        optimizer: of the parameters.
        parameters: as of `update`.
        loss: of all processes; if it or the gradient is not finite, nothing is changed.
        num_tokens: that were predicted.
    """
    rate = options.rate(step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    grad_norm = update(optimizer, parameters, loss, clip_norm=options.clip_norm)
    return StepResult(loss, grad_norm, rate, num_tokens)
