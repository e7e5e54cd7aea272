"""A LongVQ run from end to end: read text, train, export. Cut off anywhere, it is run again."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from encoder_jobs.checkpointing import Checkpoint
from encoder_jobs.longvq_learner import Learner, cut
from encoder_jobs.longvq_options import LongVQOptions
from encoder_jobs.longvq_pieces import MASKED_SHARE
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_loop import OnStep, Row
from encoder_jobs.training_text import BYTES, TextInputs, open_tokenizer
from encoder_jobs.training_text_folder import TextFolder, TextSpec
from encoder_jobs.training_text_job import (
    TextReport,
    common_figures,
    make_text_steps,
    train_on_text,
)
from encoder_jobs.training_workers import this_device
from memstore.models.longvq import LongVQ
from memstore.models.longvq_config import LongVQConfig, parse_config
from memstore.models.longvq_memory import check_memory, estimate_bytes


class LongVQFolder(TextFolder[LongVQConfig, LongVQOptions]):
    """The files of one run."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "longvq", parse_config, LongVQOptions.from_dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongVQReport(TextReport):
    """What came of a run.

    Attributes:
        validation_bits_per_byte: of a causal model of bytes; None: of any other, or no validation.
        code_perplexity: codes in use after the last step, the mean over codebooks.
        collapsed_codebooks: [layer, head] of those whose keys nearly all have one code then.
    """

    validation_bits_per_byte: float | None
    code_perplexity: float | None
    collapsed_codebooks: list[list[int]]


def train_longvq(
    inputs: TextInputs,
    output: str | Path,
    model: LongVQConfig,
    options: LongVQOptions,
    *,
    ray: str = "none",
    num_workers: int = 0,
    display: ProgressDisplay,
) -> LongVQReport:
    """Train LongVQ from random weights; the work of `memstore train longvq`.

    Args:
        inputs: text and tokenizer.
        output: folder of the run; the same call goes on with a run that was cut off.
        model: its shape; if it is causal it learns to tell the next token, else hidden ones. The
            tokenizer decides `vocab_size`, whatever it is here: its own, and one id after it that
            stands for a hidden token, unless the model is causal.
        options: how it is trained.
        ray: as of `train_on_text`.
        num_workers: processes on Ray; 0: one a GPU, or one a machine.
        display: is told of the progress.

    Raises:
        ConfigError: also if a micro-batch of the longest pieces does not fit in memory.
        NotFoundError: of the tokenizer, and with the others as `train_on_text`.
    """
    began = time.monotonic()
    folder = LongVQFolder(Path(output).absolute())
    tokenizer = open_tokenizer(inputs.tokenizer)

    def check(spec: TextSpec[LongVQConfig, LongVQOptions], documents: Ragged) -> None:
        config, options = spec.model, spec.options
        pieces = cut(config, options, documents)
        if ray == "none":  # on another machine there may be more
            batch_size = min(options.batch_size, options.micro_batch)
            longest = int(pieces.lengths.max())
            share = 1.0 if config.is_causal else MASKED_SHARE
            wanted = estimate_bytes(
                config,
                batch_size,
                longest,
                checkpointing=options.checkpointing,
                num_targets=int(batch_size * longest * share),
            )
            check_memory(wanted, (batch_size, longest), this_device())

    already_done = train_on_text(
        folder,
        inputs,
        tokenizer,
        replace(model, vocab_size=tokenizer.vocab_size + (not model.is_causal)),
        options,
        run_steps=run_steps,
        check=check,
        rebuild=_rebuild,
        describe=describe,
        ray=ray,
        num_workers=num_workers,
        display=display,
    )
    figures, last = common_figures(folder), folder.metrics.last() or {}
    loss, is_of_bytes = figures["validation_loss"], inputs.tokenizer == BYTES and model.is_causal
    return LongVQReport(
        **figures,
        validation_bits_per_byte=loss / math.log(2) if is_of_bytes and loss is not None else None,
        code_perplexity=last.get("code_perplexity"),
        collapsed_codebooks=last.get("collapsed_codebooks", []),
        already_done=already_done,
        seconds=time.monotonic() - began,
    )


def run_steps(
    folder: TextFolder[LongVQConfig, LongVQOptions],
    device: torch.device,
    on_step: OnStep | None = None,
) -> None:
    """Make the steps that a run still lacks, as `make_text_steps`."""
    make_text_steps(folder, device, on_step, learner=Learner, validate=_validate)


def describe(row: Row) -> str:
    """Say what a row of metrics has of validation and codebooks; empty: nothing."""
    said = []
    if "validation" in row:
        said.append(f"validation perplexity {row['validation']['perplexity']:,.2f}")
    if "code_perplexity" in row:
        said.append(f"{row['code_perplexity']:,.1f} codes in use")
    if collapsed := row.get("collapsed_codebooks"):
        said.append(f"collapsed codebooks: {name_codebooks(collapsed)}")
    return ", ".join(said)


def name_codebooks(codebooks: list[list[int]]) -> str:
    """Return codebooks, given by layer and head, in words."""
    return ", ".join(f"layer {layer} head {head}" for layer, head in codebooks)


def _rebuild(spec: TextSpec[LongVQConfig, LongVQOptions], checkpoint: Checkpoint) -> LongVQ:
    model = LongVQ(spec.model)
    checkpoint.load_parts({"model": model})
    return model


def _validate(learner: Learner) -> Row:
    row: dict[str, Any] = learner.code_figures()
    validation = learner.validate()
    return row if validation is None else {**row, "validation": validation.to_dict()}
