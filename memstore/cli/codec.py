"""`memstore codec …`: look at codecs, and compare families of them on one's own memories."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memstore.cli.render import Output, print_fields, print_json, print_table
from memstore.errors import ConfigError

if TYPE_CHECKING:
    from memstore.codec import ProductCodec
    from memstore.codec.comparison import Comparison, Step

GROUP = "codec"
SampleArgument = Annotated[
    Path, typer.Argument(help="A sample file (memstore codec sample), or an .npy array (N, D).")
]
OutputOption = Annotated[Output, typer.Option("--output", help="How to print.")]

_COLUMNS = (
    "family",
    "rate",
    "bytes",
    "mse",
    "spread",
    "ln_mse",
    "rms_mse",
    "cosine",
    "encode/s",
    "decode/s",
    "codec_bytes",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Sample, train, show and compare codecs.", no_args_is_help=True)
    group.command()(show)
    group.command()(compare)
    app.add_typer(group, name=GROUP)


def show(
    folder: Annotated[Path, typer.Argument(help="Folder of the codec.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one codec: its shape, stages, bytes per token and the sizes of its parts."""
    from memstore.codec import ProductCodec

    print_codec(ProductCodec.load(folder), output)


def compare(
    sample: SampleArgument,
    held_out: Annotated[
        float, typer.Option(help="Share of the vectors, of whole documents, to measure on.")
    ] = 0.1,
    seeds: Annotated[int, typer.Option(help="Times that all is done, on other documents.")] = 1,
    families: Annotated[
        str, typer.Option(help="Families by name, such as 'pq,pca'; empty: all.")
    ] = "",
    rates: Annotated[
        str, typer.Option(help="Compressions, such as '8,16'; empty: those of each family.")
    ] = "",
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw error over bytes to this file, .svg, .png or .pdf (extra: plot)."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Train every family of quantizers on a sample, and measure it on documents held out.

    Errors are relative: 0 is exact, 1 is what the mean alone gives. `bytes` counts all that is
    kept of a token, and `rate` compares the codes alone with floats of 2 bytes; speeds are those
    of this machine.

    Families: pq, memory-vq, pca, pca-64, opq, norm-pca, residual, token-pca, context-pca, int8,
    int4, pca-int8.
    """
    from memstore.codec import comparison
    from memstore.codec.sample import read_sample

    if plot is not None:
        comparison.check_plot(plot)
    chosen = _names(families)
    wanted = _numbers(rates)
    found = comparison.compare(
        read_sample(sample),
        families=chosen,
        rates=wanted,
        held_out=held_out,
        num_seeds=seeds,
        progress=None if quiet else _show_step,
    )
    if plot is not None:
        comparison.plot(found, plot)
    if output is Output.JSON:
        print_json(found.to_dict())
    else:
        _print_comparison(found)


def print_codec(codec: ProductCodec, output: Output) -> None:
    """Print what a codec is."""
    fields = describe(codec)
    if output is Output.JSON:
        print_json(fields)
        return
    print_fields({**fields, "stages": ", ".join(map(_stage, fields["stages"]))})


def describe(codec: ProductCodec) -> dict[str, Any]:
    """Return what a codec is as JSON values."""
    import numpy as np

    from memstore.codec import tensorfile
    from memstore.codec.config import CONFIG_FILE, TENSOR_FILE

    files = codec.files()
    config = json.loads(bytes(files[CONFIG_FILE]))
    parts = tensorfile.parse(np.frombuffer(files[TENSOR_FILE], np.uint8), where="codec")
    return {
        "codec_id": codec.id,
        "dim": codec.dim,
        "num_subspaces": codec.num_subspaces,
        "codebook_size": codec.codebook_size,
        "dtype": config["dtype"],
        "stages": config["stages"],
        "bytes_per_token": 2 * codec.record_words,
        "compression": codec.dim / codec.record_words,
        "codec_bytes": sum(part.nbytes for part in parts.values()),
        "parts": {name: part.nbytes for name, part in parts.items()},
    }


def _stage(stage: dict[str, Any]) -> str:
    about = ", ".join(f"{name}: {value}" for name, value in stage.items() if name != "kind")
    return f"{stage['kind']} ({about})"


def _names(text: str) -> list[str] | None:
    return [name.strip() for name in text.split(",")] if text else None


def _numbers(text: str) -> list[int] | None:
    try:
        return [int(number) for number in text.split(",")] if text else None
    except ValueError as err:
        raise ConfigError(f"--rates: got {text!r}, wanted numbers such as 8,16,32") from err


def _show_step(step: Step) -> None:
    left = ""
    if step.left_s:
        left = f", about {_duration(step.left_s)} left"
    typer.echo(f"{step.done} of {step.total}: {step.what}{left}", err=True)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min" if seconds >= 90 else f"{seconds:,.0f} s"


def _print_comparison(found: Comparison) -> None:
    rows = []
    for row in found.rows:
        fields = asdict(row)
        fields["rate"] = f"{row.rate}x" if row.rate else ""
        fields["bytes_per_token"] = f"{row.bytes_per_token:,.6g}"
        rows.append(dict(zip(_COLUMNS, fields.values(), strict=True)))
    print_table(rows, _COLUMNS)
    for name, why in found.left_out.items():
        typer.echo(f"note: {name} is left out: {why}", err=True)
    best = (
        f"{rate}x {row.family} ({row.relative_mse:.4f} at {row.bytes_per_token:g} bytes)"
        for rate, row in found.best.items()
    )
    typer.echo(f"least error: {', '.join(best)}")
