"""Adds `memstore train longvq`."""

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


class Objective(StrEnum):
    """What `--objective` takes."""

    DENOISING = "denoising"
    CAUSAL = "causal"


class StateSpace(StrEnum):
    """What `--state-space` takes."""

    EMA = "ema"
    S4D = "s4d"


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command()(longvq)


def longvq(
    corpus: CorpusArgument,
    output: FolderOption,
    validation: HeldOutFileOption = None,
    held_out: HeldOutOption = 0.05,
    tokenizer: TokenizerOption = "bytes",
    layout: LayoutOption = "auto",
    id_field: IdFieldOption = None,
    text_field: TextFieldOption = None,
    objective: Annotated[
        Objective,
        typer.Option(help="Tell hidden tokens from all others, or the next one from those before."),
    ] = Objective.DENOISING,
    dim: Annotated[int, typer.Option(help="Width of the model.")] = 256,
    layers: Annotated[int, typer.Option(help="Layers.")] = 6,
    heads: Annotated[int, typer.Option(help="Attention heads, a divisor of the width.")] = 1,
    key_dim: Annotated[int, typer.Option(help="Width of a head's queries and keys.")] = 64,
    codes: Annotated[int, typer.Option(help="Centroids of a head's keys.")] = 256,
    window: Annotated[
        int, typer.Option(help="Tokens nearer than this are attended to one by one.")
    ] = 128,
    moment_width: Annotated[
        int, typer.Option(help="Of a head's value, what teaches far keys; wider is less noisy.")
    ] = 16,
    state_space: Annotated[
        StateSpace, typer.Option(help="What mixes neighbours before attention.")
    ] = StateSpace.EMA,
    dropout: DropoutOption = 0.1,
    max_tokens: Annotated[
        int, typer.Option(help="Read at once; longer documents are cut for training.")
    ] = 4096,
    steps: StepsOption = 10_000,
    batch_size: Annotated[
        int, typer.Option(help="Documents, or pieces of them, in a step, over all workers.")
    ] = 8,
    micro_batch: MicroBatchOption = 8,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Less memory, for more time.")
    ] = False,
    learning_rate: Annotated[float, typer.Option(help="The highest.")] = 1e-3,
    warmup_steps: WarmupStepsOption = None,
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
    """Train an encoder of long texts, or a causal model of them, from nothing.

    `memstore encode --encoder OUTPUT/model` then encodes documents of any length whole. Killed at
    any point, the same command goes on after its last checkpoint.
    """
    _train(locals())


def _train(given: dict[str, Any]) -> None:
    """Run what the command was given, by the names of its parameters."""
    from encoder_jobs.longvq_job import train_longvq
    from encoder_jobs.longvq_options import LongVQOptions
    from encoder_jobs.training_text import TextInputs
    from memstore.models import longvq_config

    inputs = TextInputs(**{name: given.pop(name) for name in TEXT_INPUTS})
    dim = given.pop("dim")
    model = longvq_config.LongVQConfig(
        vocab_size=1,  # the tokenizer's, which is not open yet
        is_causal=given.pop("objective") is Objective.CAUSAL,
        dim=dim,
        num_layers=given.pop("layers"),
        num_heads=given.pop("heads"),
        key_dim=given.pop("key_dim"),
        value_dim=dim,
        ffn_dim=2 * dim,
        state_space=longvq_config.StateSpace(given.pop("state_space").value),
        num_codes=given.pop("codes"),
        window=given.pop("window"),
        moment_width=given.pop("moment_width"),
        dropout=given.pop("dropout"),
    )
    output, ray, workers = given.pop("output"), given.pop("ray"), given.pop("workers")
    quiet, report = given.pop("quiet"), given.pop("report")
    options = LongVQOptions(**{**given, "precision": given["precision"].value})
    show_run(
        lambda display: train_longvq(
            inputs, output, model, options, ray=ray, num_workers=workers, display=display
        ).to_dict(),
        quiet=quiet,
        report=report,
        in_words=_in_words,
    )


def _in_words(report: dict[str, Any]) -> dict[str, Any]:
    from encoder_jobs.longvq_job import name_codebooks

    return {**report, "collapsed_codebooks": name_codebooks(report["collapsed_codebooks"])}
