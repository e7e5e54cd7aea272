"""A run that trains a model on text, from end to end: read, train, export. Cut off anywhere, it is
run again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from encoder_jobs.checkpointing import Checkpoint
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_loop import LearnerT, OnStep, Row, make_steps
from encoder_jobs.training_options import check_shared
from encoder_jobs.training_text import (
    TextInputs,
    TextTokenizer,
    check_documents,
    hold_out,
    read_documents,
)
from encoder_jobs.training_text_folder import ConfigT, OptionsT, TextFolder, TextSpec
from encoder_jobs.training_workers import RunSteps, open_workers, run_training
from memstore.models.longvq import LongVQ
from memstore.models.melodi import Melodi
from memstore.text import CorpusScan


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReport:
    """What came of a run.

    Attributes:
        model: folder that the model's `from_pretrained` reads.
        num_documents, num_tokens: trained on, all once.
        steps: that were made, over all runs.
        loss: of the last step.
        validation_loss, validation_perplexity: of the last step; None without validation.
        already_done: nothing was left to do.
        seconds: of this run.
    """

    model: str
    num_documents: int
    num_tokens: int
    steps: int
    loss: float
    validation_loss: float | None
    validation_perplexity: float | None
    already_done: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, about this run last."""
        values = asdict(self)
        return values | {name: values.pop(name) for name in ("already_done", "seconds")}


def train_on_text(
    folder: TextFolder[ConfigT, OptionsT],
    inputs: TextInputs,
    tokenizer: TextTokenizer,
    model: ConfigT,
    options: OptionsT,
    *,
    run_steps: RunSteps[TextFolder[ConfigT, OptionsT]],
    check: Callable[[TextSpec[ConfigT, OptionsT], Ragged], object],
    rebuild: Callable[[TextSpec[ConfigT, OptionsT], Checkpoint], Melodi | LongVQ],
    describe: Callable[[Row], str],
    ray: str,
    num_workers: int,
    display: ProgressDisplay,
    source_sha256: str = "",
    codec_id: str = "",
) -> bool:
    """Train a model, and write it into the folder.

    Args:
        folder: of the run; the same call goes on with one that was cut off.
        inputs: the text.
        tokenizer: that the inputs name.
        model: its config.
        options: how it is trained.
        run_steps: makes the steps that a folder lacks; a function of a module.
        check: refuses what cannot be done, or documents that cannot be trained on.
        rebuild: makes the model of the last checkpoint; what else is to be kept of it, it writes.
        describe: as of `run_training`.
        ray: `"none"` (this process), `"local"` (Ray on this machine), or a running cluster's
            address.
        num_workers: processes on Ray; 0: one a GPU, or one a machine.
        display: is told of the progress.
        source_sha256: as of `TextSpec`.
        codec_id: as of `TextSpec`.

    Returns:
        True if nothing was left to do.

    Raises:
        ConfigError, InvalidInputError, DuplicateIdError, NotFoundError: of options or text, before
            any training.
        AlreadyExistsError: if the folder holds a run of other options, or something else.
        TrainingDivergedError: if the loss is not finite; with the step.
        MissingDependencyError: if Ray is wanted and it, or a part of it, is not installed.
        UnavailableError: if the cluster does not let this process in, or its workers end.
        StorageFullError, StorageError: if the folder cannot be written.
    """
    with open_workers(ray, num_workers) as num_processes:
        check_shared(options.batch_size, num_processes)
        corpus = inputs.scan(inputs.corpus, display)
        held_out = inputs.scan(inputs.validation, display) if inputs.validation else None
        spec = TextSpec(
            model=model,
            options=options,
            tokenizer_sha256=tokenizer.sha256,
            corpus_sha256=_digest(corpus, inputs),
            validation_sha256=_digest(held_out, inputs) if held_out else "",
            held_out=0.0 if held_out else inputs.held_out,
            num_workers=num_processes,
            source_sha256=source_sha256,
            codec_id=codec_id,
        )
        folder.check(spec)
        if folder.is_finished:
            return True
        if folder.has_documents:
            folder.put_spec(spec)  # what it starts from is where this run finds it
        else:
            _prepare(folder, spec, corpus, held_out, tokenizer, check, display)
        run_training(
            folder,
            run_steps,
            options.steps,
            ray=ray,
            num_workers=num_processes,
            display=display,
            describe=describe,
        )
    _export(folder, spec, rebuild)
    return False


def make_text_steps(
    folder: TextFolder[ConfigT, OptionsT],
    device: torch.device,
    on_step: OnStep | None,
    *,
    learner: Callable[..., LearnerT],
    validate: Callable[[LearnerT], Row],
) -> None:
    """Make the steps that a run still lacks, as `make_steps`.

    Args:
        folder: with a spec and its documents.
        device: as of `make_steps`.
        on_step: as of `make_steps`.
        learner: of config, options, documents and held-out documents or None, by position, and of
            `device` and `checkpoint`, by name.
        validate: as of `make_steps`.

    Raises:
        ConfigError, TrainingDivergedError, StorageFullError, StorageError: as `make_steps`.
        NotFoundError, CorruptionError: if what the run was begun with is gone or damaged.
    """
    spec = folder.spec()
    documents = folder.documents()

    def start(device: torch.device, checkpoint: Checkpoint | None) -> LearnerT:
        return learner(spec.model, spec.options, *documents, device=device, checkpoint=checkpoint)

    make_steps(folder, spec.options, device, start=start, validate=validate, on_step=on_step)


def common_figures(folder: TextFolder[ConfigT, OptionsT]) -> dict[str, Any]:
    """Return what `TextReport` says of a finished run, apart from this process' part in it."""
    last = folder.metrics.last() or {}
    validation = last.get("validation", {})
    train, _ = folder.documents()
    return {
        "model": str(folder.model),
        "num_documents": len(train),
        "num_tokens": len(train.values),
        "steps": folder.spec().options.steps,
        "loss": last.get("loss", float("nan")),
        "validation_loss": validation.get("loss"),
        "validation_perplexity": validation.get("perplexity"),
    }


def _prepare(
    folder: TextFolder[ConfigT, OptionsT],
    spec: TextSpec[ConfigT, OptionsT],
    corpus: CorpusScan,
    held_out: CorpusScan | None,
    tokenizer: TextTokenizer,
    check: Callable[[TextSpec[ConfigT, OptionsT], Ragged], object],
    display: ProgressDisplay,
) -> None:
    """Tokenize, once; refuse what cannot be trained before the folder is made."""
    train, validation = read_documents(corpus, tokenizer, display), None
    if held_out is not None:
        validation = read_documents(held_out, tokenizer, display)
        check_documents(validation, "to validate on")
    else:
        train, validation = hold_out(train, spec.held_out, spec.options.seed)
    check(spec, train)
    num_held_out = 0 if validation is None else len(validation)
    display.say(f"training on {len(train):,} documents, validating on {num_held_out:,}")
    folder.put_spec(spec)
    folder.put_documents(train, validation, tokenizer.content)


def _export(
    folder: TextFolder[ConfigT, OptionsT],
    spec: TextSpec[ConfigT, OptionsT],
    rebuild: Callable[[TextSpec[ConfigT, OptionsT], Checkpoint], Melodi | LongVQ],
) -> None:
    """Write the figures of the last validation, then the model of the last checkpoint."""
    last = folder.metrics.last() or {}
    if "validation" in last:
        folder.put_validation(last["step"], last["validation"])
    model = rebuild(spec, folder.checkpoints.read(spec.options.steps))
    model.save_pretrained(folder.model, folder.tokenizer())


def _digest(scanned: CorpusScan, inputs: TextInputs) -> str:
    """Return the digest of a corpus' bytes and of how they are read."""
    read_as = [inputs.layout, inputs.id_field, inputs.text_field]
    files = [[file.name, file.sha256] for file in scanned.files]
    return hashlib.sha256(json.dumps([read_as, files]).encode()).hexdigest()
