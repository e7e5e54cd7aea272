"""Adds to `memstore codec` what needs an encoder or may need a cluster: `sample` and `train`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from encoder_jobs.cli_options import (
    CorpusArgument,
    EncoderOption,
    IdFieldOption,
    LayoutOption,
    LiveFractionOption,
    QuietOption,
    RayOption,
    StrideTokensOption,
    TemplateOption,
    TextFieldOption,
    TitleFieldOption,
    WindowTokensOption,
    library_group,
)
from memstore.cli.codec import GROUP, SampleArgument, print_codec
from memstore.cli.render import Output


class RotationKind(StrEnum):
    """What `--rotation` takes."""

    NONE = "none"
    PCA = "pca"
    OPQ = "opq"


class PredictorKind(StrEnum):
    """What `--predictor` takes."""

    NONE = "none"
    TOKEN = "token"  # noqa: S105
    CONTEXT = "context"


def register(app: typer.Typer) -> None:
    """Add the commands to the group that the library made."""
    group = library_group(app, GROUP)
    group.command()(sample)
    group.command()(train)


def sample(
    corpus: CorpusArgument,
    output: Annotated[Path, typer.Option("--output", help="The sample file to write.")],
    tokens: Annotated[int, typer.Option(help="Memories to take, about.")] = 131_072,
    encoder: EncoderOption = "all-MiniLM-L6-v2",
    live_fraction: LiveFractionOption = "1/3",
    window_tokens: WindowTokensOption = 128,
    stride_tokens: StrideTokensOption = 0,
    template: TemplateOption = "{title} {text}",
    layout: LayoutOption = "auto",
    id_field: IdFieldOption = None,
    text_field: TextFieldOption = None,
    title_field: TitleFieldOption = None,
    quiet: QuietOption = False,
) -> None:
    """Encode passages spread over a corpus, and keep their memories in a sample file.

    The file holds the vectors, their token ids, where passages begin, which document each is of,
    and the memory of every token of the vocabulary alone: what `train` and `compare` read.
    """
    from encoder_jobs.codec_sample import sample_corpus
    from encoder_jobs.options import make_options
    from encoder_jobs.progress import ProgressDisplay
    from memstore.codec.sample import check_absent, write_sample

    check_absent(output)
    options = make_options(
        encoder=encoder,
        live_fraction=live_fraction,
        window_tokens=window_tokens,
        stride_tokens=stride_tokens,
        template=template,
        codec_sample_tokens=tokens,
        layout=layout,
        id_field=id_field,
        text_field=text_field,
        title_field=title_field,
    )
    with ProgressDisplay(quiet=quiet) as display:
        taken = sample_corpus(corpus, options, display)
        write_sample(output, taken)
        num_vectors, dim = taken.vectors.shape
        display.say(f"{output}: {num_vectors:,} memories of {dim} dimensions")


def train(
    sample: SampleArgument,
    output: Annotated[Path, typer.Option("--output", help="Folder to write the codec to.")],
    subspaces: Annotated[
        int | None, typer.Option(help="M, a divisor of the dimension; none: 16x compression.")
    ] = None,
    codebook_size: Annotated[
        int | None,
        typer.Option(help="Centroids in a subspace, 2 to 65536; none: what the sample allows."),
    ] = None,
    rotation: Annotated[
        RotationKind, typer.Option(help="Change of basis before the quantizer.")
    ] = RotationKind.NONE,
    rotation_block: Annotated[
        int | None, typer.Option(help="Width of the blocks of a pca rotation; none: dense.")
    ] = None,
    predictor: Annotated[
        PredictorKind,
        typer.Option(help="What is predicted from the token id alone, or from its neighbours."),
    ] = PredictorKind.NONE,
    seed: Annotated[int, typer.Option(help="The same seed and sample give the same codec.")] = 0,
    ray: RayOption = "none",
    quiet: QuietOption = False,
) -> None:
    """Train a codec on a sample, and show it.

    `memstore codec compare` tells which rotation and predictor suit the memories.
    """
    from encoder_jobs.codec_job import TrainOptions, train_codec
    from encoder_jobs.progress import ProgressDisplay

    options = TrainOptions(
        num_subspaces=subspaces,
        codebook_size=codebook_size,
        rotation=None if rotation is RotationKind.NONE else rotation.value,
        rotation_block=rotation_block,
        predictor=None if predictor is PredictorKind.NONE else predictor.value,
        seed=seed,
    )
    with ProgressDisplay(quiet=quiet) as display:
        codec = train_codec(sample, output, options, ray=ray, display=display)
    print_codec(codec, Output.TABLE)
