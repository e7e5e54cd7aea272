"""Options that the commands of `memstore train` share."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from memstore.cli.render import Output, print_fields, print_json


class Optimizer(StrEnum):
    """What `--optimizer` takes."""

    ADAFACTOR = "adafactor"
    ADAMW = "adamw"


class Precision(StrEnum):
    """What `--precision` takes."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


FolderOption = Annotated[Path, typer.Option("--output", help="Folder of the run.")]
StepsOption = Annotated[int, typer.Option(help="Updates of the weights.")]
OptimizerOption = Annotated[Optimizer, typer.Option(help="Neither has weight decay.")]
PrecisionOption = Annotated[
    Precision, typer.Option(help="bfloat16 keeps float32 weights; auto: bfloat16 on a GPU.")
]
SeedOption = Annotated[int, typer.Option(help="The same seed and input give the same weights.")]
ValidateEveryOption = Annotated[int, typer.Option(help="Steps between validations.")]
CheckpointEveryOption = Annotated[
    int, typer.Option(help="Steps between checkpoints: what a crash can lose.")
]
WorkersOption = Annotated[
    int, typer.Option(help="Processes on Ray; 0: one a GPU, or one a machine.")
]
ReportOption = Annotated[Output, typer.Option("--report", help="How to print the report.")]

TEXT_INPUTS = ("corpus", "validation", "held_out", "tokenizer", "layout", "id_field", "text_field")
"""Parameters of a command on text that are fields of `TextInputs`."""

HeldOutFileOption = Annotated[
    str | None,
    typer.Option("--validation", help="Held-out documents, as the corpus; none: some of it."),
]
HeldOutOption = Annotated[
    float, typer.Option(help="Share of the documents that is held out then; 0: none.")
]
TokenizerOption = Annotated[
    str, typer.Option(help="'bytes', a tokenizer.json, or a model that has one: folder or id.")
]
DropoutOption = Annotated[float, typer.Option(help="Share that is left out in training.")]
MicroBatchOption = Annotated[
    int, typer.Option(help="Of them, those that go through the model together.")
]
WarmupStepsOption = Annotated[
    int | None, typer.Option(help="Until it is reached; none: 1000, or a tenth of the steps.")
]
ClipNormOption = Annotated[float, typer.Option(help="Longest gradient; others are shortened.")]


def show_run(
    train: Callable[[Any], dict[str, Any]],
    *,
    quiet: bool,
    report: Output,
    in_words: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> None:
    """Run a training with a display of its progress, and print what came of it.

    Args:
        train: takes the `ProgressDisplay` and returns a report.
        quiet: show no progress.
        report: how to print.
        in_words: what of the report is for people.
    """
    from encoder_jobs.progress import ProgressDisplay

    with ProgressDisplay(quiet=quiet) as display:
        done = train(display)
    if report is Output.JSON:
        print_json(done)
    else:
        print_fields(in_words(done))
