"""Options that several commands have: which encoder, how a corpus is read, where the work runs."""

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
