"""The training loop: steps, validation, checkpoints; the same for one process and for a group.

A run that was cut off goes on from its last checkpoint and ends with the same weights as one that
was not, on machines of the same kind: dropout and the order of questions follow from the number of
the step. (Some kernels of GPUs add in no fixed order; there it is the same to rounding.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import distributed

from encoder_jobs.lumen_data import Examples
from encoder_jobs.lumen_folder import RunFolder
from encoder_jobs.lumen_learner import Learner, StepResult
from encoder_jobs.lumen_options import TrainOptions
from encoder_jobs.lumen_tokens import ModelTokens
from memstore.encoders.sources import resolve_source
from memstore.errors import ConfigError
from memstore.evaluation import exact_match, f1
from memstore.models.checkpoints import TOKENIZER_FILE
from memstore.models.lumen import Lumen
from memstore.models.vq_codebook import num_ranks, sum_over_ranks

Row = Mapping[str, Any]
OnStep = Callable[[int, Row], object]


def run_steps(folder: RunFolder, device: torch.device, on_step: OnStep | None = None) -> None:
    """Make the steps that a run still lacks; its last checkpoint is then of its last step.

    Every process of a group calls this; the first one writes.

    Args:
        folder: with a spec and its examples.
        device: where this process computes.
        on_step: called after each step with its number and its row of metrics.

    Raises:
        ConfigError: if the loss or the gradient is not finite: nothing of that step is kept.
        StorageFullError, StorageError: if the folder cannot be written.
        NotFoundError, CorruptionError: if what the run was begun with is gone or damaged.
    """
    options = folder.spec().options
    train, validation = folder.examples()
    done = folder.checkpoints.last_step
    if done >= options.steps:
        return
    writes = _rank() == 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        checkpoint = folder.checkpoints.read(done) if done else None
        learner = Learner(options, train, device, checkpoint)
        del checkpoint  # as much memory as the learner
        tokens = tokens_of(options, learner.model)
        if writes:
            folder.metrics.keep(done)
        for step in range(done + 1, options.steps + 1):
            began = time.monotonic()
            result = learner.learn(step)
            if not result.is_finite:
                raise _diverged(folder, step, result)
            row = _row(step, result, time.monotonic() - began)
            if validation is not None and _is_due(step, options.validate_every, options):
                row |= _score(learner, tokens, validation, options.micro_batch)
            if writes:
                folder.metrics.append(row)
                if _is_due(step, options.checkpoint_every, options):
                    folder.checkpoints.write(step, learner.parts, learner.optimizer)
            if on_step is not None:
                on_step(step, row)


def tokens_of(options: TrainOptions, model: Lumen) -> ModelTokens:
    """Return the tokenizer of the model that training starts from."""
    file = resolve_source(options.source) / TOKENIZER_FILE
    return ModelTokens(file, model, options.encoder(options.source))


def _score(
    learner: Learner, tokens: ModelTokens, examples: Examples, batch_size: int
) -> dict[str, float]:
    """Answer held-out questions, each process its share, and compare with what is right."""
    own = range(_rank(), len(examples), num_ranks())
    sums = torch.zeros(2, dtype=torch.float64)
    for at in range(0, len(own), batch_size):
        numbers = own[at : at + batch_size]
        for number, ids in zip(numbers, learner.answer(examples, numbers), strict=True):
            text, gold = tokens.text(ids), examples.texts[number]
            sums += torch.tensor([exact_match(text, gold), f1(text, gold)])
    sums = sums.to(learner.device)
    sum_over_ranks(sums)
    em, mean_f1 = (sums / len(examples)).tolist()
    return {"validation_em": em, "validation_f1": mean_f1}


def _row(step: int, result: StepResult, seconds: float) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step, "loss": result.loss, "grad_norm": result.grad_norm}
    if result.perplexity is not None:
        row |= {"perplexity": result.perplexity, "num_resets": result.num_resets}
    return row | {"seconds": round(seconds, 4)}


def _is_due(step: int, every: int, options: TrainOptions) -> bool:
    return step % every == 0 or step == options.steps


def _diverged(folder: RunFolder, step: int, result: StepResult) -> ConfigError:
    last = folder.checkpoints.last_step
    kept = f"the checkpoint of step {last} is kept" if last else "there is no checkpoint before it"
    return ConfigError(
        f"{folder.root}: step {step} has a loss of {result.loss} and a gradient of length "
        f"{result.grad_norm}, wanted finite ones; training stopped, {kept}; train to another "
        "folder with a lower --learning-rate or with --precision float32",
        step=step,
        checkpoint=last,
    )


def _rank() -> int:
    return distributed.get_rank() if num_ranks() > 1 else 0
