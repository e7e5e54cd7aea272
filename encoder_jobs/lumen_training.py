"""The training loop of LUMEN: what its steps begin with, and how held-out questions are scored."""

from __future__ import annotations

from functools import partial

import torch

from encoder_jobs.checkpointing import Checkpoint
from encoder_jobs.lumen_data import Examples
from encoder_jobs.lumen_folder import RunFolder
from encoder_jobs.lumen_learner import Learner
from encoder_jobs.lumen_options import TrainOptions
from encoder_jobs.lumen_tokens import ModelTokens
from encoder_jobs.training_loop import OnStep, Row, make_steps
from encoder_jobs.training_steps import rank
from memstore.encoders.sources import resolve_source
from memstore.evaluation import exact_match, f1
from memstore.models.checkpoints import TOKENIZER_FILE
from memstore.models.lumen import Lumen
from memstore.models.vq_codebook import num_ranks, sum_over_ranks


def run_steps(folder: RunFolder, device: torch.device, on_step: OnStep | None = None) -> None:
    """Make the steps that a run still lacks, as `make_steps`.

    Args:
        folder: with a spec and its examples.
        device: as of `make_steps`.
        on_step: as of `make_steps`.

    Raises:
        ConfigError, StorageFullError, StorageError: as `make_steps`.
        NotFoundError, CorruptionError: if what the run was begun with is gone or damaged.
    """
    options = folder.spec().options
    train, validation = folder.examples()

    def start(device: torch.device, checkpoint: Checkpoint | None) -> Learner:
        return Learner(options, train, device, checkpoint)

    validate = None if validation is None else partial(_score, options, validation)
    make_steps(folder, options, device, start=start, validate=validate, on_step=on_step)


def tokens_of(options: TrainOptions, model: Lumen) -> ModelTokens:
    """Return the tokenizer of the model that training starts from."""
    file = resolve_source(options.source) / TOKENIZER_FILE
    return ModelTokens(file, model, options.encoder(options.source))


def _score(options: TrainOptions, examples: Examples, learner: Learner) -> Row:
    """Answer held-out questions, each process its share, and compare with what is right."""
    tokens = tokens_of(options, learner.model)
    own = range(rank(), len(examples), num_ranks())
    sums = torch.zeros(2, dtype=torch.float64)
    for at in range(0, len(own), options.micro_batch):
        numbers = own[at : at + options.micro_batch]
        for number, ids in zip(numbers, learner.answer(examples, numbers), strict=True):
            text, gold = tokens.text(ids), examples.texts[number]
            sums += torch.tensor([exact_match(text, gold), f1(text, gold)])
    sums = sums.to(learner.device)
    sum_over_ranks(sums)
    em, mean_f1 = (sums / len(examples)).tolist()
    return {"validation_em": em, "validation_f1": mean_f1}
