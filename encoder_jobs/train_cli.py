"""Adds `memstore train …`: lumen and lumen-vq here, melodi and longvq from files of their own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from encoder_jobs import longvq_cli, melodi_cli
from encoder_jobs.cli_options import (
    QuietOption,
    RayOption,
    StrideTokensOption,
    TemplateOption,
    WindowTokensOption,
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
    show_run,
)
from memstore.cli.render import Output


class Freeze(StrEnum):
    """What `--freeze` takes."""

    NONE = "none"
    MEMORY_ENCODER = "memory-encoder"
    ALL = "all"


_SourceArgument = Annotated[
    str, typer.Argument(help="A LUMEN model or a T5: a folder or a Hugging Face id.")
]
_QuestionsArgument = Annotated[
    Path,
    typer.Argument(help="Questions, a JSON object a line: id, question, answers, and passages."),
]
_ValidationOption = Annotated[
    Path | None, typer.Option(help="Held-out questions, as the questions; none: not scored.")
]
_StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="Where passages are found by id, or searched for."),
]
_CollectionOption = Annotated[str, typer.Option("--collection", help="Name of the collection.")]
_TopKOption = Annotated[int, typer.Option(help="Passages of a question, at most.")]
_LiveFractionOption = Annotated[
    str | None,
    typer.Option(help="Share of the layers that the reader runs; none: the model's own, or 1/3."),
]
_RetrieverOption = Annotated[
    str, typer.Option(help="Another encoder for the retrieval vectors, as of memstore encode.")
]
_BatchSizeOption = Annotated[int, typer.Option(help="Questions in a step, over all workers.")]
_MicroBatchOption = Annotated[
    int, typer.Option(help="Questions that go through the model together: what memory allows.")
]
_LearningRateOption = Annotated[float, typer.Option(help="Constant.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Train a reader and its encoder, or a model of long streams or long texts.",
        no_args_is_help=True,
    )
    group.command()(lumen)
    group.command("lumen-vq")(lumen_vq)
    melodi_cli.register(group)
    longvq_cli.register(group)
    app.add_typer(group, name="train")


def lumen(
    source: _SourceArgument,
    questions: _QuestionsArgument,
    output: FolderOption,
    validation: _ValidationOption = None,
    store: _StoreOption = None,
    collection: _CollectionOption = "default",
    top_k: _TopKOption = 8,
    live_fraction: _LiveFractionOption = None,
    window_tokens: WindowTokensOption = 128,
    stride_tokens: StrideTokensOption = 0,
    template: TemplateOption = "{title} {text}",
    retriever: _RetrieverOption = "",
    steps: StepsOption = 10_000,
    batch_size: _BatchSizeOption = 64,
    micro_batch: _MicroBatchOption = 8,
    learning_rate: _LearningRateOption = 1e-4,
    optimizer: OptimizerOption = Optimizer.ADAFACTOR,
    precision: PrecisionOption = Precision.AUTO,
    seed: SeedOption = 0,
    validate_every: ValidateEveryOption = 500,
    checkpoint_every: CheckpointEveryOption = 500,
    ray: RayOption = "none",
    workers: WorkersOption = 0,
    quiet: QuietOption = False,
    report: ReportOption = Output.TABLE,
) -> None:
    """Fine-tune a reader on memories that are not compressed; its memory encoder stays frozen.

    Killed at any point, the same command goes on after its last checkpoint.
    """
    _train(locals(), is_quantized=False)


def lumen_vq(
    source: _SourceArgument,
    questions: _QuestionsArgument,
    output: FolderOption,
    freeze: Annotated[
        Freeze, typer.Option(help="What is not trained; all: only the codebook is.")
    ] = Freeze.NONE,
    codec: Annotated[
        Path | None, typer.Option(help="Folder of the codec to start from, stages included.")
    ] = None,
    subspaces: Annotated[
        int | None, typer.Option(help="M, a divisor of the dimension; none: 16x compression.")
    ] = None,
    codebook_size: Annotated[
        int | None, typer.Option(help="Centroids in a subspace, 2 to 65536.")
    ] = None,
    validation: _ValidationOption = None,
    store: _StoreOption = None,
    collection: _CollectionOption = "default",
    top_k: _TopKOption = 8,
    live_fraction: _LiveFractionOption = None,
    window_tokens: WindowTokensOption = 128,
    stride_tokens: StrideTokensOption = 0,
    template: TemplateOption = "{title} {text}",
    retriever: _RetrieverOption = "",
    steps: StepsOption = 10_000,
    batch_size: _BatchSizeOption = 64,
    micro_batch: _MicroBatchOption = 8,
    learning_rate: _LearningRateOption = 1e-4,
    optimizer: OptimizerOption = Optimizer.ADAFACTOR,
    precision: PrecisionOption = Precision.AUTO,
    seed: SeedOption = 0,
    validate_every: ValidateEveryOption = 500,
    checkpoint_every: CheckpointEveryOption = 500,
    ray: RayOption = "none",
    workers: WorkersOption = 0,
    quiet: QuietOption = False,
    report: ReportOption = Output.TABLE,
) -> None:
    """Train reader, memory encoder and codec together, through the quantizer.

    Begin with a LUMEN that is fine-tuned, or with a T5. The corpus is then encoded with the folders
    encoder/ and codec/ of the output. Killed at any point, the same command goes on after its last
    checkpoint.
    """
    _train(locals(), is_quantized=True)


_INPUTS = ("questions", "validation", "store", "collection")


def _train(arguments: dict[str, Any], *, is_quantized: bool) -> None:
    """Run what a command was given, by the names of its parameters."""
    from encoder_jobs.lumen_job import TrainInputs, train_lumen
    from encoder_jobs.lumen_options import TrainOptions

    given = dict(arguments)
    inputs = TrainInputs(**{name: given.pop(name) for name in _INPUTS})
    output, ray, workers = given.pop("output"), given.pop("ray"), given.pop("workers")
    quiet, report = given.pop("quiet"), given.pop("report")
    given["live_fraction"] = given["live_fraction"] or ""
    given["optimizer"], given["precision"] = given["optimizer"].value, given["precision"].value
    if is_quantized:
        given["freeze"], given["codec"] = given["freeze"].value, str(given["codec"] or "")
        given["num_subspaces"] = given.pop("subspaces")
    options = TrainOptions(is_quantized=is_quantized, **given)
    show_run(
        lambda display: train_lumen(
            inputs, output, options, ray=ray, num_workers=workers, display=display
        ).to_dict(),
        quiet=quiet,
        report=report,
    )
