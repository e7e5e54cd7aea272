"""A MELODI run from end to end: read text, train, export. Cut off anywhere, it is run again."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from encoder_jobs.checkpointing import Checkpoint
from encoder_jobs.melodi_folder import MelodiFolder
from encoder_jobs.melodi_learner import Learner, check_shares, make_model, open_streams
from encoder_jobs.melodi_options import MelodiOptions
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_loop import OnStep, Row
from encoder_jobs.training_sources import absolute, checkpoint_digest
from encoder_jobs.training_text import TextInputs, TextTokenizer, open_tokenizer
from encoder_jobs.training_text_folder import TextFolder, TextSpec
from encoder_jobs.training_text_job import (
    TextReport,
    common_figures,
    make_text_steps,
    train_on_text,
)
from memstore.codec import ProductCodec
from memstore.errors import ConfigError
from memstore.models.checkpoints import TOKENIZER_FILE
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import MelodiConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MelodiReport(TextReport):
    """What came of a run.

    Attributes:
        validation_by_position: the validation as a list of buckets, as in `Validation.to_dict`.
        codec: folder of the codec that the queue learnt with; empty: there is none.
    """

    validation_by_position: list[dict[str, Any]]
    codec: str


def train_melodi(
    inputs: TextInputs,
    output: str | Path,
    model: MelodiConfig | None,
    options: MelodiOptions,
    *,
    ray: str = "none",
    num_workers: int = 0,
    display: ProgressDisplay,
) -> MelodiReport:
    """Train a model of streams; the work of `memstore train melodi`.

    Args:
        inputs: text, and the tokenizer of a model that starts from random weights.
        output: folder of the run; the same call goes on with a run that was cut off.
        model: its shape; the tokenizer decides `vocab_size`, whatever it is here. None: that of
            the options' source, whose tokenizer is taken, too.
        options: how it is trained.
        ray: as of `train_on_text`.
        num_workers: processes on Ray; 0: one a GPU, or one a machine.
        display: is told of the progress.

    Raises:
        ConfigError: also if there is a model beside a source, or neither.
        NotFoundError: of the tokenizer, source or codec.
        CodecMismatchError: if the codec is for other vectors. Others as `train_on_text`.
    """
    began = time.monotonic()
    folder = MelodiFolder(Path(output).absolute())
    options = replace(options, source=absolute(options.source), codec=absolute(options.codec))
    if (model is None) == (not options.source):
        raise ConfigError("training starts from a shape or from a source: give one of them")
    if model is None:
        model = Melodi.from_pretrained(options.source).config
        tokenizer = _tokenizer_of(options.source, model)
    else:
        tokenizer = open_tokenizer(inputs.tokenizer)
        model = replace(model, vocab_size=tokenizer.vocab_size)
    if options.codec:
        with torch.random.fork_rng(devices=[]):  # only to refuse, before the text is read
            make_model(model, options, begins=False)
    already_done = train_on_text(
        folder,
        inputs,
        tokenizer,
        model,
        options,
        run_steps=run_steps,
        check=_check,
        rebuild=partial(_rebuild, folder.codec),
        describe=_describe,
        ray=ray,
        num_workers=num_workers,
        display=display,
        source_sha256=checkpoint_digest(Path(options.source)) if options.source else "",
        codec_id=ProductCodec.load(options.codec).id if options.codec else "",
    )
    validation = (folder.metrics.last() or {}).get("validation", {})
    return MelodiReport(
        **common_figures(folder),
        validation_by_position=validation.get("by_position", []),
        codec=str(folder.codec) if options.codec else "",
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


def _tokenizer_of(source: str, model: MelodiConfig) -> TextTokenizer:
    """Return the tokenizer of a model that is gone on from."""
    file = Path(source, TOKENIZER_FILE)
    if not file.is_file():
        raise ConfigError(f"{source}: no {TOKENIZER_FILE} beside the model; save it with its own")
    tokenizer = open_tokenizer(str(file))
    if tokenizer.vocab_size > model.vocab_size:
        raise ConfigError(
            f"{file}: {tokenizer.vocab_size} tokens, the model knows {model.vocab_size}; give the "
            "tokenizer that it was trained with"
        )
    return tokenizer


def _check(spec: TextSpec[MelodiConfig, MelodiOptions], documents: Ragged) -> None:
    """Refuse what cannot be trained."""
    check_shares(spec.options, spec.num_workers)
    open_streams(spec.model, spec.options, documents)


def _rebuild(
    codec: Path, spec: TextSpec[MelodiConfig, MelodiOptions], checkpoint: Checkpoint
) -> Melodi:
    """Return the model; the codec that it learnt with is written."""
    model = make_model(spec.model, spec.options, begins=False)
    checkpoint.load_parts({"model": model})
    if spec.codec_id:
        quantizer = model.quantize_queue(None)
        assert quantizer is not None  # noqa: S101 - `make_model` put it there
        shutil.rmtree(codec, ignore_errors=True)  # of a run that was cut off here
        quantizer.to_codec("float32").save(codec)
    return model


def _validate(learner: Learner) -> Row:
    validation = learner.validate()
    return {} if validation is None else {"validation": validation.to_dict()}


def _describe(row: Row) -> str:
    if "validation" not in row:
        return ""
    return f"validation perplexity {row['validation']['perplexity']:,.2f}"
