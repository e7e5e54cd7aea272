"""`memstore query` and `memstore fetch`: ask a store on disk or a server."""

from __future__ import annotations

import os
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memstore.cli.render import Output, print_json
from memstore.errors import ConfigError

if TYPE_CHECKING:
    from memstore.client import Client
    from memstore.service import Store
    from memstore.types import Hit, Memory, Passage

_RERANKED_PER_HIT = 10
_MAX_RERANKED = 1_000  # no store looks at more

StoreOption = Annotated[str | None, typer.Option("--store", help="Folder of the store.")]
ServerOption = Annotated[
    str | None, typer.Option("--server", help="HOST:PORT of a running server.")
]
CollectionOption = Annotated[str, typer.Option("--collection", help="Name of the collection.")]
VersionOption = Annotated[
    int | None, typer.Option("--version", help="Read this version, not the newest.")
]
OutputOption = Annotated[Output, typer.Option("--output", help="How to print.")]
TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token-file", help="File with the bearer token; or MEMSTORE_TOKEN."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(query)
    app.command()(fetch)


def query(
    question: Annotated[str, typer.Argument(help="The question, in words.")],
    store: StoreOption = None,
    server: ServerOption = None,
    top_k: Annotated[int, typer.Option("--top-k", help="How many passages, 1 to 1000.")] = 8,
    where: Annotated[
        str | None, typer.Option("--where", help="Filter, such as 'year >= 2019'.")
    ] = None,
    collection: CollectionOption = "default",
    version: VersionOption = None,
    rerank: Annotated[
        bool,
        typer.Option(
            "--rerank",
            help=(
                "Order the best 10 x top_k passages, at most 1000, anew: half by their retrieval "
                "vectors, half by their memories, token by token. With the default encoder the "
                "memories alone rank worse than retrieval, and both hardly better: measure it."
            ),
        ),
    ] = False,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Find the best passages for a question, with their memories."""
    source = open_source(store, server, token_file)
    result = source.query(
        question,
        top_k=top_k,
        where=where,
        collection=collection,
        version=version,
        rerank=max(top_k, min(_RERANKED_PER_HIT * top_k, _MAX_RERANKED)) if rerank else 0,
    )
    if output is Output.JSON:
        hits = [_hit(hit, memory) for hit, memory in zip(result.hits, result.memories, strict=True)]
        print_json(
            {
                "collection": collection,
                "version": result.version,
                "codec_id": result.codec_id,
                "hits": hits,
            }
        )
        return
    for hit, memory in zip(result.hits, result.memories, strict=True):
        _print_passage(hit, memory, f"{hit.score:.4f}  ")


def fetch(
    passage_ids: Annotated[list[str], typer.Argument(help="Passage ids, such as 'doc-17#3'.")],
    store: StoreOption = None,
    server: ServerOption = None,
    collection: CollectionOption = "default",
    version: VersionOption = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Get passages and their memories by id."""
    source = open_source(store, server, token_file)
    result = source.fetch(passage_ids, collection=collection, version=version)
    pairs = list(zip(result.passages, result.memories, strict=True))
    if output is Output.JSON:
        print_json(
            {
                "collection": collection,
                "version": result.version,
                "passages": [_hit(*pair) for pair in pairs],
            }
        )
        return
    for passage, memory in pairs:
        _print_passage(passage, memory, "")


def open_source(store: str | None, server: str | None, token_file: Path | None) -> Store | Client:
    """Open what `--store` or `--server` names; `ConfigError` unless it is one of the two."""
    if (store is None) == (server is None):
        raise ConfigError("give one of --store DIR and --server HOST:PORT")
    if server is not None:
        return open_client(server, token_file)
    from memstore.service import open_store

    return open_store(str(store), create=False)


def open_client(server: str, token_file: Path | None) -> Client:
    """Connect to what `--server` names."""
    from memstore.client import Client

    return Client(server, token=_token(token_file))


def _token(token_file: Path | None) -> str | None:
    if token_file is None:
        return os.environ.get("MEMSTORE_TOKEN")
    try:
        return token_file.read_text().strip()
    except OSError as err:
        raise ConfigError(f"--token-file {token_file}: {err.strerror}") from err


def _hit(passage: Hit | Passage, memory: Memory) -> dict[str, Any]:
    return {
        "passage_id": passage.passage_id,
        **asdict(passage),
        "memory": {"num_tokens": memory.num_tokens, "num_bytes": memory.records.nbytes},
    }


def _print_passage(passage: Passage, memory: Memory, prefix: str) -> None:
    title = f"  {passage.title}" if passage.title else ""
    typer.echo(f"{prefix}{passage.passage_id}{title}")
    typer.echo(f"        {memory.num_tokens} tokens in {memory.records.nbytes:,} bytes")
    text = textwrap.shorten(passage.text, 240, placeholder=" …")
    typer.echo(textwrap.indent(textwrap.fill(text, 92), "        "))
