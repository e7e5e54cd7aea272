"""A language model of running text learns, from nothing or from another's weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from encoder_jobs.melodi_learner import Learner
from encoder_jobs.melodi_options import MelodiOptions
from encoder_jobs.ragged import Ragged
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import MelodiConfig


def learn_language(
    config: MelodiConfig,
    options: MelodiOptions,
    documents: Ragged,
    *,
    device: torch.device,
    prepare: Callable[[Melodi], None] | None = None,
) -> tuple[Melodi, list[float]]:
    """Train a model.

    Args:
        config: of the model.
        options: how; their seed decides the first weights and the order of documents.
        documents: what on.
        device: where.
        prepare: called with the model before the first step: gives it other weights, or puts a
            codec into it.

    Returns:
        The model in training mode, and the loss of each step.

    Raises:
        ArithmeticError: if a step's loss is not finite.
    """
    learner = Learner(config, options, documents, device=device)
    if prepare is not None:
        prepare(learner.model)
    losses = []
    for step in range(1, options.steps + 1):
        result = learner.learn(step)
        if not result.is_finite:
            raise ArithmeticError(f"step {step}: loss {result.loss}, gradient {result.grad_norm}")
        losses.append(result.loss)
    return learner.model, losses
