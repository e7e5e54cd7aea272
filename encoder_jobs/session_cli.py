"""Adds to `memstore session` what reads a corpus: `sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from encoder_jobs.cli_options import (
    CorpusArgument,
    IdFieldOption,
    LayoutOption,
    QuietOption,
    TextFieldOption,
    library_group,
)
from memstore.cli.session import GROUP


def register(app: typer.Typer) -> None:
    """Add the command to the group that the library made."""
    library_group(app, GROUP).command()(sample)


def sample(
    corpus: CorpusArgument,
    model: Annotated[Path, typer.Option("--model", help="Folder of the model.")],
    output: Annotated[Path, typer.Option("--output", help="The sample file to write.")],
    entries: Annotated[int, typer.Option(help="Entries to take, about.")] = 65_536,
    layout: LayoutOption = "auto",
    id_field: IdFieldOption = None,
    text_field: TextFieldOption = None,
    quiet: QuietOption = False,
) -> None:
    """Read documents as sessions would, and keep what they leave in the queue in a sample file.

    `memstore codec train` makes of it the codec that sessions keep their queues in, and `memstore
    codec compare` says what each would lose.
    """
    from encoder_jobs.progress import ProgressDisplay
    from encoder_jobs.session_sample import sample_queues
    from encoder_jobs.training_text import TextInputs
    from memstore.codec.sample import check_absent, write_sample

    check_absent(output)
    inputs = TextInputs(corpus, layout=layout, id_field=id_field, text_field=text_field)
    with ProgressDisplay(quiet=quiet) as display:
        taken = sample_queues(inputs, model, entries, display)
        write_sample(output, taken)
        num_entries, dim = taken.vectors.shape
        display.say(f"{output}: {num_entries:,} entries of {dim} dimensions")
