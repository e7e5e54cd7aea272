"""A training run from end to end: look up, train, export. Cut off anywhere, it is run again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from encoder_jobs.lumen_data import Examples, prepare_examples
from encoder_jobs.lumen_folder import RunFolder, TrainSpec
from encoder_jobs.lumen_learner import load_model, make_quantizer
from encoder_jobs.lumen_options import TrainOptions
from encoder_jobs.lumen_questions import Text, find_passages, read_lines
from encoder_jobs.lumen_tokens import ModelTokens
from encoder_jobs.lumen_training import run_steps, tokens_of
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.training_loop import Row
from encoder_jobs.training_options import check_shared
from encoder_jobs.training_sources import absolute, checkpoint_digest, file_digest
from encoder_jobs.training_workers import open_workers, run_training
from memstore.codec import ProductCodec
from memstore.encoders import read_identity
from memstore.encoders.sources import resolve_source
from memstore.models.checkpoints import TOKENIZER_FILE, checkpoint_kind
from memstore.models.lumen import Lumen
from memstore.service import Store, open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What came of a run.

    Attributes:
        reader, encoder, codec: folders; `encoder` is empty if memories are still those of the
            encoder that the source has or was pinned to, `codec` without a quantizer.
        encoder_id, codec_id: what the reader is pinned to; `codec_id` is empty without one.
        live_fraction: of the encoder; `memstore encode` wants the same.
        steps: that were made, over all runs.
        loss: of the last step.
        validation_em, validation_f1: of the last step; None without validation.
        already_done: nothing was left to do.
        seconds: of this run.
    """

    reader: str
    encoder: str
    codec: str
    encoder_id: str
    codec_id: str
    live_fraction: str
    steps: int
    loss: float
    validation_em: float | None
    validation_f1: float | None
    already_done: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainInputs:
    """Where questions and passages come from.

    Attributes:
        questions: a file of questions to train on.
        validation: a file of held-out ones; None: nothing is validated.
        store: where their passages are; None: in the files.
        collection: of the store.
    """

    questions: Path
    validation: Path | None = None
    store: str | Path | None = None
    collection: str = "default"


def train_lumen(
    inputs: TrainInputs,
    output: str | Path,
    options: TrainOptions,
    *,
    ray: str = "none",
    num_workers: int = 0,
    display: ProgressDisplay,
) -> TrainReport:
    """Train a LUMEN or LUMEN-VQ model; the work of `memstore train`.

    Args:
        inputs: questions and passages.
        output: folder of the run; the same call goes on with a run that was cut off.
        options: what is trained, and how.
        ray: `"none"` (this process), `"local"` (Ray on this machine), or a running cluster's
            address.
        num_workers: processes on Ray; 0: one a GPU, or one a machine.
        display: is told of the progress.

    Raises:
        ConfigError, DuplicateIdError, NotFoundError, CorruptionError: of options, questions,
            passages, model or codec, before any training.
        AlreadyExistsError: if the folder holds a run of other options, or something else.
        TrainingDivergedError: if the loss is not finite; with the step.
        MissingDependencyError: if Ray is wanted and it, or a part of it, is not installed.
        UnavailableError: if the cluster does not let this process in, or its workers end.
        StorageFullError, StorageError: if the folder cannot be written.
    """
    began = time.monotonic()
    options = replace(
        options,
        source=absolute(options.source),
        codec=absolute(options.codec),
        retriever=absolute(options.retriever),
    )
    folder = RunFolder(Path(output).absolute())
    with open_workers(ray, num_workers) as num_processes:
        spec = _make_spec(inputs, options, num_processes)
        folder.check(spec)
        already_done = folder.is_finished
        if not already_done:
            _prepare(folder, spec, inputs, display)
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
        _export(folder)
    return _report(folder, already_done=already_done, seconds=time.monotonic() - began)


def _make_spec(inputs: TrainInputs, options: TrainOptions, num_workers: int) -> TrainSpec:
    check_shared(options.batch_size, num_workers)
    return TrainSpec(
        options=options,
        source_sha256=checkpoint_digest(resolve_source(options.source)),
        codec_id=ProductCodec.load(options.codec).id if options.codec else "",
        questions_sha256=file_digest(inputs.questions),
        validation_sha256=file_digest(inputs.validation) if inputs.validation else "",
        store=absolute(str(inputs.store)) if inputs.store else "",
        collection=inputs.collection if inputs.store else "",
        num_workers=num_workers,
    )


def _prepare(
    folder: RunFolder, spec: TrainSpec, inputs: TrainInputs, display: ProgressDisplay
) -> None:
    """Look passages up and tokenize, once; refuse what cannot be trained before anything is."""
    if folder.has_examples:
        folder.put_spec(spec)  # the model's folder is where this run finds it
        return
    model = load_model(spec.options)
    tokens = tokens_of(spec.options, model)
    store = open_store(inputs.store, create=False) if inputs.store else None
    files = [inputs.questions, *([inputs.validation] if inputs.validation else [])]
    examples = [
        _examples(path, store, inputs.collection, spec.options.top_k, tokens, display)
        for path in files
    ]
    make_quantizer(spec.options, model, examples[0])
    folder.put_spec(spec)
    folder.put_examples(*examples)


def _examples(
    path: Path,
    store: Store | None,
    collection: str,
    top_k: int,
    tokens: ModelTokens,
    display: ProgressDisplay,
) -> Examples:
    lines = read_lines(path)
    phase = f"looking up {path.name}, questions"

    def found() -> Iterator[list[Text]]:
        passages = find_passages(path, lines, store=store, collection=collection, top_k=top_k)
        for number, texts in enumerate(passages):
            display.update(phase, number, len(lines))
            yield texts
        display.update(phase, len(lines), len(lines))

    examples = prepare_examples(path, lines, found(), tokens)
    num_tokens = len(examples.passages.values)
    display.say(
        f"{path.name}: {len(examples):,} questions, {len(examples.passages):,} different passages "
        f"of {num_tokens:,} tokens"
    )
    return examples


def _describe(row: Row) -> str:
    return f"validation EM {row['validation_em']:.2%}" if "validation_em" in row else ""


def _export(folder: RunFolder) -> None:
    """Write encoder (if it is a new one), codec and reader from the last checkpoint; the reader
    last.
    """
    options = folder.spec().options
    model = load_model(options)
    train, _ = folder.examples()
    quantizer = make_quantizer(options, model, train)
    parts: dict[str, torch.nn.Module] = {"model": model}
    if quantizer is not None:
        parts["quantizer"] = quantizer
    folder.checkpoints.read(options.steps).load_parts(parts)
    for path in (folder.encoder, folder.codec):  # of a run that was cut off here
        shutil.rmtree(path, ignore_errors=True)
    tokenizer_file = resolve_source(options.source) / TOKENIZER_FILE
    encoder_id = _kept_encoder(options, model)
    if not encoder_id:
        model.export_encoder(folder.encoder, tokenizer_file)
        made = options.encoder(str(folder.encoder), str(model.config.live_fraction))
        encoder_id = read_identity(made).id
    codec_id = ""
    if quantizer is not None:
        codec = quantizer.to_codec()
        codec.save(folder.codec)
        codec_id = codec.id
    model.config = replace(model.config, encoder_id=encoder_id, codec_id=codec_id)
    model.save_pretrained(folder.reader, tokenizer_file)


def _kept_encoder(options: TrainOptions, model: Lumen) -> str:
    """Return the id of the encoder whose memories the trained model reads as it did before; empty:
    they are other ones, or nothing says which.
    """
    if options.trains_memory_encoder:
        return ""
    if model.config.encoder_id:  # of a reader, and not if it is cut anew
        return model.config.encoder_id
    if checkpoint_kind(resolve_source(options.source)) is not None:
        return ""
    return read_identity(options.encoder(options.source, str(model.config.live_fraction))).id


def _report(folder: RunFolder, *, already_done: bool, seconds: float) -> TrainReport:
    config = folder.reader_config()
    last = folder.metrics.last() or {}
    return TrainReport(
        reader=str(folder.reader),
        encoder=str(folder.encoder) if folder.encoder.exists() else "",
        codec=str(folder.codec) if config.codec_id else "",
        encoder_id=config.encoder_id,
        codec_id=config.codec_id,
        live_fraction=str(config.live_fraction),
        steps=folder.spec().options.steps,
        loss=last.get("loss", float("nan")),
        validation_em=last.get("validation_em"),
        validation_f1=last.get("validation_f1"),
        already_done=already_done,
        seconds=seconds,
    )
