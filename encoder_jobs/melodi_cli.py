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
    CheckpointEveryOption,
    FolderOption,
    Optimizer,
    OptimizerOption,
    Precision,
    PrecisionOption,
    ReportOption,
    SeedOption,
    StepsOption,
    ValidateEveryOption,
    WorkersOption,
)
from memstore.cli.render import Output, print_fields, print_json


class Architecture(StrEnum):
    """What `--architecture` takes."""

    MELODI = "melodi"
    TRANSFORMER_XL = "transformer-xl"
    MEMORIZING = "memorizing"
    BLOCK_RECURRENT = "block-recurrent"


_INPUTS = ("corpus", "validation", "held_out", "tokenizer", "layout", "id_field", "text_field")
_MODEL = ("dim", "num_layers", "num_heads", "window", "queue_windows", "dropout")


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command()(melodi)


def melodi(
    corpus: CorpusArgument,
    output: FolderOption,
    validation: Annotated[
        str | None, typer.Option(help="Held-out documents, as the corpus; none: some of it.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the documents that is held out then; 0: none.")
    ] = 0.05,
    tokenizer: Annotated[
        str,
        typer.Option(help="'bytes', a tokenizer.json, or a model that has one: folder or id."),
    ] = "bytes",
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
    dropout: Annotated[float, typer.Option(help="Share that is left out in training.")] = 0.05,
    segment_windows: Annotated[
        int, typer.Option(help="Windows read in a step; gradients cross them, and none before.")
    ] = 8,
    steps: StepsOption = 10_000,
    batch_size: Annotated[
        int, typer.Option(help="Documents that are read side by side, over all workers.")
    ] = 8,
    micro_batch: Annotated[
        int, typer.Option(help="Of them, those that go through the model together.")
    ] = 8,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest; none: 0.001 of adamw, 0.01 of adafactor.")
    ] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(help="Until it is reached; none: 1000, or a tenth of the steps.")
    ] = None,
    optimizer: OptimizerOption = Optimizer.ADAMW,
    clip_norm: Annotated[float, typer.Option(help="Longest gradient; others are shortened.")] = 1.0,
    precision: PrecisionOption = Precision.AUTO,
    seed: SeedOption = 0,
    validate_every: ValidateEveryOption = 500,
    checkpoint_every: CheckpointEveryOption = 500,
    ray: RayOption = "none",
    workers: WorkersOption = 0,
    quiet: QuietOption = False,
    report: ReportOption = Output.TABLE,
) -> None:
    """Train a language model with memory for streams longer than its window, from nothing.

    Documents are read from start to end, many side by side; none sees another. Killed at any point,
    the same command goes on after its last checkpoint.
    """
    _train(locals())


def _train(given: dict[str, Any]) -> None:
    """Run what the command was given, by the names of its parameters."""
    from encoder_jobs.melodi_job import train_melodi
    from encoder_jobs.melodi_options import MelodiOptions
    from encoder_jobs.melodi_text import TextInputs
    from encoder_jobs.progress import ProgressDisplay
    from memstore.models import melodi_config

    inputs = TextInputs(**{name: given.pop(name) for name in _INPUTS})
    given["num_layers"], given["num_heads"] = given.pop("layers"), given.pop("heads")
    short_tokens = given.pop("short_tokens")
    model = melodi_config.MelodiConfig(
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
    with ProgressDisplay(quiet=quiet) as display:
        done = train_melodi(
            inputs, output, model, options, ray=ray, num_workers=workers, display=display
        ).to_dict()
    if report is Output.JSON:
        print_json(done)
        return
    done["validation_by_position"] = {
        _windows(each): f"{each['perplexity']:,.2f}" for each in done["validation_by_position"]
    }
    print_fields(done)


def _windows(bucket: dict[str, Any]) -> str:
    first, last = bucket["first_window"], bucket["last_window"]
    return f"window {first}" if first == last else f"windows {first} to {last}"
