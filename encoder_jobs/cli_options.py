"""What several commands have: options such as which encoder, and the groups they belong to."""

from __future__ import annotations

from typing import Annotated

import typer

CorpusArgument = Annotated[
    str, typer.Argument(help="A file, or a folder of files of one layout; plain, .gz or .zst.")
]
RayOption = Annotated[
    str,
    typer.Option(
        help="'none': this process; 'local': Ray on this machine; "
        "'auto' or host:port: a running cluster, from inside it."
    ),
]
EncoderOption = Annotated[
    str, typer.Option(help="Name, checkpoint folder or Hugging Face id of the encoder.")
]
LiveFractionOption = Annotated[
    str,
    typer.Option(help="Share of the layers that the reader runs; the memory is what enters them."),
]
WindowTokensOption = Annotated[int, typer.Option(help="Longest passage, special tokens included.")]
StrideTokensOption = Annotated[int, typer.Option(help="Step between windows; 0: no overlap.")]
TemplateOption = Annotated[str, typer.Option(help="'{title} {text}' or '{text}'.")]
LayoutOption = Annotated[
    str, typer.Option(help="auto, jsonl, beir, kilt, dpr, msmarco, parquet, arrow or text.")
]
IdFieldOption = Annotated[
    str | None, typer.Option(help="Field of the document id (jsonl, parquet, arrow).")
]
TextFieldOption = Annotated[str | None, typer.Option(help="Field of the text.")]
TitleFieldOption = Annotated[str | None, typer.Option(help="Field of the title.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def library_group(app: typer.Typer, name: str) -> typer.Typer:
    """Return a group of commands that the library made, to add others to."""
    group = next(info.typer_instance for info in app.registered_groups if info.name == name)
    if group is None:
        raise AssertionError("the library's commands are registered first")
    return group
