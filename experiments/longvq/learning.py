"""A model learns a task, and is tested on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from experiments.longvq.batches import IGNORED, Batch, Outcomes, Task
from memstore.errors import ShapeError
from memstore.models.longvq import LongVQ, LongVQClassifier
from memstore.models.longvq_config import LongVQConfig

_CLIP = 1.0


@dataclass(frozen=True, slots=True)
class Course:
    """How a model learns.

    Args:
        num_steps: batches.
        learning_rate: at its height, of AdamW; a cosine takes it to a twentieth.
        warmup_steps: over which it rises from nothing.
        weight_decay: MEGA's.
        betas: MEGA's.
    """

    num_steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        return self.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)


class Learner(nn.Module):
    """A LongVQ model, with a classifier on it if a task has classes.

    Args:
        config: of the model.
        num_classes: of a text; None: it gives tokens.
    """

    def __init__(self, config: LongVQConfig, num_classes: int | None) -> None:
        super().__init__()
        self.model = LongVQ(config)
        self.classifier = None
        if num_classes is not None:
            self.classifier = LongVQClassifier(self.model, num_classes)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy in nats, with the quantizer's loss."""
        if self.classifier is not None:
            logits, quantizer_loss = self.classifier(batch.tokens, batch.mask)
            loss: torch.Tensor = F.cross_entropy(logits, batch.targets) + quantizer_loss
            return loss
        return self.model.loss(self.model(batch.tokens, batch.mask), batch.targets)

    def judge(self, batch: Batch, *, in_bits: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what became of each target.

        Returns:
            (A,) float32, 1 for a right answer and 0 for a wrong one, or bits; and (A, 2) int64, the
            item and the group that it counts to.
        """
        assert batch.items is not None
        if self.classifier is not None:
            logits, targets = self.classifier(batch.tokens, batch.mask)[0], batch.targets
            places = torch.stack([batch.items, torch.zeros_like(batch.items)], dim=1)
        else:
            is_asked = batch.targets != IGNORED
            hidden = self.model(batch.tokens, batch.mask).hidden
            logits, targets = self.model.predict(hidden[is_asked]), batch.targets[is_asked]
            items = batch.items[:, None].expand_as(batch.targets)[is_asked]
            groups = torch.zeros_like(items) if batch.groups is None else batch.groups[is_asked]
            places = torch.stack([items, groups], dim=1)
        if in_bits:
            losses = F.cross_entropy(logits.float(), targets, reduction="none")
            return losses / math.log(2), places
        return (logits.argmax(dim=1) == targets).float(), places


def learn(
    learner: Learner, batches: Iterator[Batch], course: Course, *, device: torch.device
) -> list[float]:
    """Train a model; return the loss of each step.

    Raises:
        ArithmeticError: as `take_steps`.
    """
    losses = (learner.loss(batch.to(device)) for batch in batches)
    return take_steps(learner, losses, course)


def take_steps(model: nn.Module, losses: Iterator[torch.Tensor], course: Course) -> list[float]:
    """Make a model's losses smaller, one after the other; return them.

    Args:
        model: what learns.
        losses: each computed, from the weights as they are then, when it is asked for.
        course: how.

    Raises:
        ArithmeticError: if a step's loss or activations are not finite, naming the step.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=course.weight_decay, betas=course.betas
    )
    model.train()
    taken: list[float] = []
    for step in range(course.num_steps):
        try:
            loss = next(losses)
        except ShapeError as err:
            raise ArithmeticError(f"step {step + 1}: {err}") from err
        taken.append(float(loss.detach()))
        if not math.isfinite(taken[-1]):
            raise ArithmeticError(f"step {step + 1}: loss {taken[-1]}")
        for group in optimizer.param_groups:
            group["lr"] = course.rate(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimizer.step()
    return taken


@torch.no_grad()
def examine(learner: Learner, task: Task, seed: int, *, device: torch.device) -> Outcomes:
    """Test a model on all items that belong to a seed."""
    learner.eval()
    shape = task.num_items, len(task.groups)
    sums, counts = np.zeros(shape), np.zeros(shape, np.int64)
    for batch in task.test(seed):
        values, places = learner.judge(batch.to(device), in_bits=task.in_bits)
        where = tuple(places.T.cpu().numpy())
        np.add.at(sums, where, values.double().cpu().numpy())
        np.add.at(counts, where, 1)
    return Outcomes(sums, counts)
