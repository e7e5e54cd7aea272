"""Adds `memstore train melodi`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from encoder_jobs.cli_options import (
    CorpusArgument,
    IdFieldOption,
    LayoutOption,
    QuietOption,
    RayOption,
    TextFieldOption,
)
from encoder_jobs.training_cli_options import (
    TEXT_INPUTS,
    CheckpointEveryOption,
    ClipNormOption,
    DropoutOption,
    FolderOption,
    HeldOutFileOption,
    HeldOutOption,
    MicroBatchOption,
    Optimizer,
    OptimizerOption,
    Precision,
    PrecisionOption,
    ReportOption,
    SeedOption,
    StepsOption,
    TokenizerOption,
    ValidateEveryOption,
    WarmupStepsOption,
    WorkersOption,
    show_run,
)
from memstore.cli.render import Output
from memstore.errors import ConfigError


class Architecture(StrEnum):
    """What `--architecture` takes."""

    MELODI = "melodi"
    TRANSFORMER_XL = "transformer-xl"
    MEMORIZING = "memorizing"
    BLOCK_RECURRENT = "block-recurrent"


_SHAPE = (
    *("tokenizer", "architecture", "dim", "layers", "heads", "window", "short_tokens"),
    *("long_tokens", "queue_windows", "dropout"),
)
_MODEL = ("dim", "num_layers", "num_heads", "window", "queue_windows", "dropout")


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command()(melodi)


def melodi(
    context: typer.Context,
    corpus: CorpusArgument,
    output: FolderOption,
    validation: HeldOutFileOption = None,
    held_out: HeldOutOption = 0.05,
    source: Annotated[
        str, typer.Option(help="Model to go on from, with its shape and tokenizer; none: no model.")
    ] = "",
    codec: Annotated[
        str,
        typer.Option(
            help="Codec that the queue is kept in, and that learns with the model; see memstore "
            "session sample."
        ),
    ] = "",
    tokenizer: TokenizerOption = "bytes",
    layout: LayoutOption = "auto",
    id_field: IdFieldOption = None,
    text_field: TextFieldOption = None,
    architecture: Annotated[
        Architecture, typer.Option(help="What is kept of earlier windows.")
    ] = Architecture.MELODI,
    dim: Annotated[int, typer.Option(help="Width of the model; inside a layer it is 4 times.")] = (
        1024
    ),
    layers: Annotated[int, typer.Option(help="Layers.")] = 12,
    heads: Annotated[int, typer.Option(help="Attention heads, a divisor of the width.")] = 8,
    window: Annotated[int, typer.Option(help="Tokens that are read at once.")] = 512,
    short_tokens: Annotated[
        int, typer.Option(help="Short-term memory of a layer, in tokens (melodi).")
    ] = 128,
    long_tokens: Annotated[
        int, typer.Option(help="What a window adds to the queue, in tokens; 0: no queue (melodi).")
    ] = 64,
    queue_windows: Annotated[
        int, typer.Option(help="Windows that the queue holds (melodi, memorizing).")
    ] = 128,
    dropout: DropoutOption = 0.05,
    segment_windows: Annotated[
        int, typer.Option(help="Windows read in a step; gradients cross them, and none before.")
    ] = 8,
    steps: StepsOption = 10_000,
    batch_size: Annotated[
        int, typer.Option(help="Documents that are read side by side, over all workers.")
    ] = 8,
    micro_batch: MicroBatchOption = 8,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest; none: 0.001 of adamw, 0.01 of adafactor.")
    ] = None,
    warmup_steps: WarmupStepsOption = None,
    optimizer: OptimizerOption = Optimizer.ADAMW,
    clip_norm: ClipNormOption = 1.0,
    precision: PrecisionOption = Precision.AUTO,
    seed: SeedOption = 0,
    validate_every: ValidateEveryOption = 500,
    checkpoint_every: CheckpointEveryOption = 500,
    ray: RayOption = "none",
    workers: WorkersOption = 0,
    quiet: QuietOption = False,
    report: ReportOption = Output.TABLE,
) -> None:
    """Train a language model with memory for streams longer than its window.

    Documents are read from start to end, many side by side; none sees another. Killed at any point,
    the same command goes on after its last checkpoint.
    """
    _train(locals())


def _train(given: dict[str, Any]) -> None:
    """Run what the command was given, by the names of its parameters."""
    _check_source(given.pop("context"), given["source"])
    from encoder_jobs.melodi_job import train_melodi
    from encoder_jobs.melodi_options import MelodiOptions
    from encoder_jobs.training_text import TextInputs
    from memstore.models import melodi_config

    inputs = TextInputs(**{name: given.pop(name) for name in TEXT_INPUTS})
    given["num_layers"], given["num_heads"] = given.pop("layers"), given.pop("heads")
    short_tokens = given.pop("short_tokens")
    shape = melodi_config.MelodiConfig(
        vocab_size=1,  # the tokenizer's, which is not open yet
        architecture=melodi_config.Architecture(given.pop("architecture").value),
        ffn_dim=4 * given["dim"],
        num_short_tokens=short_tokens,
        num_summary_tokens=short_tokens,
        num_long_tokens=given.pop("long_tokens"),
        **{name: given.pop(name) for name in _MODEL},
    )
    output, ray, workers = given.pop("output"), given.pop("ray"), given.pop("workers")
    quiet, report = given.pop("quiet"), given.pop("report")
    given["optimizer"], given["precision"] = given["optimizer"].value, given["precision"].value
    options = MelodiOptions(**given)
    show_run(
        lambda display: train_melodi(
            inputs,
            output,
            None if options.source else shape,
            options,
            ray=ray,
            num_workers=workers,
            display=display,
        ).to_dict(),
        quiet=quiet,
        report=report,
        in_words=_in_words,
    )


def _check_source(context: typer.Context, source: str) -> None:
    """Refuse to be told of a source what it has."""
    told = [
        f"--{name.replace('_', '-')}"
        for name in _SHAPE
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if source and told:
        raise ConfigError(f"{', '.join(told)}: the model of --source has its own; leave it out")


def _in_words(report: dict[str, Any]) -> dict[str, Any]:
    buckets = report["validation_by_position"]
    by_window = {_windows(bucket): f"{bucket['perplexity']:,.2f}" for bucket in buckets}
    return {**report, "validation_by_position": by_window}


def _windows(bucket: dict[str, Any]) -> str:
    first, last = bucket["first_window"], bucket["last_window"]
    return f"window {first}" if first == last else f"windows {first} to {last}"
