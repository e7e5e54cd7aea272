"""A MELODI run from end to end: read text, train, export. Cut off anywhere, it is run again."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from encoder_jobs.checkpointing import Checkpoint
from encoder_jobs.melodi_folder import MelodiFolder, MelodiSpec
from encoder_jobs.melodi_learner import Learner, open_streams
from encoder_jobs.melodi_options import MelodiOptions
from encoder_jobs.melodi_streams import check_documents
from encoder_jobs.melodi_text import (
    TextInputs,
    TextTokenizer,
    hold_out,
    open_tokenizer,
    read_documents,
)
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.training_loop import OnStep, Row, make_steps
from encoder_jobs.training_options import check_shared
from encoder_jobs.training_workers import open_workers, run_training
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import MelodiConfig
from memstore.text import CorpusScan


@dataclass(frozen=True, slots=True, kw_only=True)
class MelodiReport:
    """What came of a run.

    Attributes:
        model: folder that `Melodi.from_pretrained` reads.
        num_documents, num_tokens: trained on, all once.
        steps: that were made, over all runs.
        loss: of the last step.
        validation_loss, validation_perplexity: of the last step; None without validation.
        validation_by_position: the same as a list of buckets, as in `Validation.to_dict`.
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
    validation_by_position: list[dict[str, Any]]
    already_done: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


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
        ray: `"none"` (this process), `"local"` (Ray on this machine), or a running cluster's
            address.
        num_workers: processes on Ray; 0: one a GPU, or one a machine.
        display: is told of the progress.

    Raises:
        ConfigError, InvalidInputError, DuplicateIdError, NotFoundError: of options, text or
            tokenizer, before any training.
        AlreadyExistsError: if the folder holds a run of other options, or something else.
        TrainingDivergedError: if the loss is not finite; with the step.
        MissingDependencyError: if Ray is wanted and it, or a part of it, is not installed.
        UnavailableError: if the cluster does not let this process in, or its workers end.
        StorageFullError, StorageError: if the folder cannot be written.
    """
    began = time.monotonic()
    folder = MelodiFolder(Path(output).absolute())
    tokenizer = open_tokenizer(inputs.tokenizer)
    model = replace(model, vocab_size=tokenizer.vocab_size)
    with open_workers(ray, num_workers) as num_processes:
        check_shared(options.batch_size, num_processes)
        corpus = inputs.scan(inputs.corpus, display)
        held_out = inputs.scan(inputs.validation, display) if inputs.validation else None
        spec = MelodiSpec(
            model=model,
            options=options,
            tokenizer_sha256=tokenizer.sha256,
            corpus_sha256=_digest(corpus, inputs),
            validation_sha256=_digest(held_out, inputs) if held_out else "",
            held_out=0.0 if held_out else inputs.held_out,
            num_workers=num_processes,
        )
        folder.check(spec)
        already_done = folder.is_finished
        if not already_done:
            _prepare(folder, spec, corpus, held_out, tokenizer, display)
            run_training(
                folder,
                run_steps,
                options.steps,
                ray=ray,
                num_workers=num_processes,
                display=display,
                describe=_describe,
            )
    if not already_done:
        _export(folder, spec)
    return _report(folder, already_done=already_done, seconds=time.monotonic() - began)


def run_steps(folder: MelodiFolder, device: torch.device, on_step: OnStep | None = None) -> None:
    """Make the steps that a run still lacks, as `make_steps`.

    Args:
        folder: with a spec and its documents.
        device: as of `make_steps`.
        on_step: as of `make_steps`.

    Raises:
        ConfigError, StorageFullError, StorageError: as `make_steps`.
        NotFoundError, CorruptionError: if what the run was begun with is gone or damaged.
    """
    spec = folder.spec()
    train, validation = folder.documents()

    def start(device: torch.device, checkpoint: Checkpoint | None) -> Learner:
        return Learner(
            spec.model, spec.options, train, validation, device=device, checkpoint=checkpoint
        )

    validate = None if validation is None else _validate
    make_steps(folder, spec.options, device, start=start, validate=validate, on_step=on_step)


def _validate(learner: Learner) -> Row:
    validation = learner.validate()
    return {} if validation is None else {"validation": validation.to_dict()}


def _describe(row: Row) -> str:
    if "validation" not in row:
        return ""
    return f"validation perplexity {row['validation']['perplexity']:,.2f}"


def _prepare(
    folder: MelodiFolder,
    spec: MelodiSpec,
    corpus: CorpusScan,
    held_out: CorpusScan | None,
    tokenizer: TextTokenizer,
    display: ProgressDisplay,
) -> None:
    """Tokenize, once; refuse what cannot be trained before the folder is made."""
    if folder.has_documents:
        return
    train, validation = read_documents(corpus, tokenizer, display), None
    if held_out is not None:
        validation = read_documents(held_out, tokenizer, display)
        check_documents(validation, "to validate on")
    else:
        train, validation = hold_out(train, spec.held_out, spec.options.seed)
    open_streams(spec.model, spec.options, train)
    num_held_out = 0 if validation is None else len(validation)
    display.say(f"training on {len(train):,} documents, validating on {num_held_out:,}")
    folder.put_spec(spec)
    folder.put_documents(train, validation, tokenizer.content)


def _export(folder: MelodiFolder, spec: MelodiSpec) -> None:
    """Write the figures of the last validation, then the model of the last checkpoint."""
    last = folder.metrics.last() or {}
    if "validation" in last:
        folder.put_validation(last["step"], last["validation"])
    model = Melodi(spec.model)
    folder.checkpoints.read(spec.options.steps).load_parts({"model": model})
    model.save_pretrained(folder.model, folder.tokenizer())


def _report(folder: MelodiFolder, *, already_done: bool, seconds: float) -> MelodiReport:
    last = folder.metrics.last() or {}
    validation = last.get("validation", {})
    train, _ = folder.documents()
    return MelodiReport(
        model=str(folder.model),
        num_documents=len(train),
        num_tokens=len(train.values),
        steps=folder.spec().options.steps,
        loss=last.get("loss", float("nan")),
        validation_loss=validation.get("loss"),
        validation_perplexity=validation.get("perplexity"),
        validation_by_position=validation.get("by_position", []),
        already_done=already_done,
        seconds=seconds,
    )


def _digest(scanned: CorpusScan, inputs: TextInputs) -> str:
    """Return the digest of a corpus' bytes and of how they are read."""
    read_as = [inputs.layout, inputs.id_field, inputs.text_field]
    files = [[file.name, file.sha256] for file in scanned.files]
    return hashlib.sha256(json.dumps([read_as, files]).encode()).hexdigest()
