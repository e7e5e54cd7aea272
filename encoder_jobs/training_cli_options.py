"""Options that the commands of `memstore train` share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from memstore.cli.render import Output


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
