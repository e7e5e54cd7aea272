"""A MELODI run from end to end: read text, train, export. Cut off anywhere, it is run again."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from encoder_jobs.melodi_folder import MelodiFolder
from encoder_jobs.melodi_learner import Learner, open_streams
from encoder_jobs.melodi_options import MelodiOptions
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.training_loop import OnStep, Row
from encoder_jobs.training_text import TextInputs, open_tokenizer
from encoder_jobs.training_text_folder import TextFolder
from encoder_jobs.training_text_job import (
    TextReport,
    common_figures,
    make_text_steps,
    train_on_text,
)
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import MelodiConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MelodiReport(TextReport):
    """What came of a run.

    Attributes:
        validation_by_position: the validation as a list of buckets, as in `Validation.to_dict`.
    """

    validation_by_position: list[dict[str, Any]]


def train_melodi(
    inputs: TextInputs,
    output: str | Path,
    model: MelodiConfig,
    options: MelodiOptions,
    *,
    ray: str = "none",
    num_workers: int = 0,
    display: ProgressDisplay,
) -> MelodiReport:
    """Train a model of streams from random weights; the work of `memstore train melodi`.

    Args:
        inputs: text and tokenizer.
        output: folder of the run; the same call goes on with a run that was cut off.
        model: its shape; the tokenizer decides `vocab_size`, whatever it is here.
        options: how it is trained.
        ray: as of `train_on_text`.
        num_workers: processes on Ray; 0: one a GPU, or one a machine.
        display: is told of the progress.

    Raises:
        ConfigError, NotFoundError: of the tokenizer, and with the others as `train_on_text`.
    """
    began = time.monotonic()
    folder = MelodiFolder(Path(output).absolute())
    tokenizer = open_tokenizer(inputs.tokenizer)
    already_done = train_on_text(
        folder,
        inputs,
        tokenizer,
        replace(model, vocab_size=tokenizer.vocab_size),
        options,
        run_steps=run_steps,
        check=open_streams,
        build=Melodi,
        describe=_describe,
        ray=ray,
        num_workers=num_workers,
        display=display,
    )
    validation = (folder.metrics.last() or {}).get("validation", {})
    return MelodiReport(
        **common_figures(folder),
        validation_by_position=validation.get("by_position", []),
        already_done=already_done,
        seconds=time.monotonic() - began,
    )


def run_steps(
    folder: TextFolder[MelodiConfig, MelodiOptions],
    device: torch.device,
    on_step: OnStep | None = None,
) -> None:
    """Make the steps that a run still lacks, as `make_text_steps`."""
    make_text_steps(folder, device, on_step, learner=Learner, validate=_validate)


def _validate(learner: Learner) -> Row:
    validation = learner.validate()
    return {} if validation is None else {"validation": validation.to_dict()}


def _describe(row: Row) -> str:
    if "validation" not in row:
        return ""
    return f"validation perplexity {row['validation']['perplexity']:,.2f}"
