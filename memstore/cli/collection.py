"""`memstore collection …`: look after the collections of a store on disk."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from memstore.cli.render import Output, print_fields, print_json, print_table
from memstore.errors import CorruptionError

if TYPE_CHECKING:
    from memstore.service import Store

_LISTED = (
    "name",
    "version",
    "num_passages",
    "num_tokens",
    "record_bytes",
    "num_shards",
    "shard_bytes",
)
_VERSION_LISTED = (
    "version",
    "created_at",
    "operation",
    "num_passages",
    "num_deleted",
    "num_tokens",
    "shard_bytes",
)

StoreOption = Annotated[str, typer.Option("--store", help="Folder of the store.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the collection.")]
OutputOption = Annotated[Output, typer.Option("--output", help="How to print.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="List, show, verify, clean and delete from collections.", no_args_is_help=True
    )
    for command in (ls, show, versions, verify, gc, delete):
        group.command()(command)
    app.add_typer(group, name="collection")


def ls(store: StoreOption, output: OutputOption = Output.TABLE) -> None:
    """List the collections of a store."""
    rows = [asdict(info) for info in _open(store).collections()]
    if output is Output.JSON:
        print_json(rows)
    else:
        print_table(rows, _LISTED)


def show(
    store: StoreOption,
    name: NameArgument = "default",
    version: Annotated[int | None, typer.Option("--version", help="An older version.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one collection."""
    info = asdict(_open(store).collection_info(name, version))
    if output is Output.JSON:
        print_json(info)
    else:
        print_fields(info)


def versions(
    store: StoreOption, name: NameArgument = "default", output: OutputOption = Output.TABLE
) -> None:
    """List the versions of a collection that can be read."""
    rows = [asdict(info) for info in _open(store).versions(name)]
    if output is Output.JSON:
        print_json(rows)
    else:
        print_table(rows, _VERSION_LISTED)


def verify(
    store: StoreOption,
    name: NameArgument = "default",
    version: Annotated[int | None, typer.Option("--version", help="An older version.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Read every byte of a collection and compare its digests."""
    report = _open(store).verify(name, version)
    if output is Output.JSON:
        print_json(asdict(report))
    else:
        for problem in report.problems:
            typer.echo(problem)
        typer.echo(
            f"version {report.version}: {report.num_objects:,} objects, {report.num_bytes:,} bytes "
            f"read, {len(report.problems)} problems"
        )
    if report.problems:
        raise CorruptionError(
            f"{len(report.problems)} objects of collection {name!r} are damaged or missing"
        )


def gc(
    store: StoreOption,
    name: NameArgument = "default",
    keep_versions: Annotated[
        int, typer.Option("--keep-versions", help="Newest versions to keep.")
    ] = 10,
    grace_hours: Annotated[
        float, typer.Option("--grace-hours", help="Delete what has been unnamed for so long.")
    ] = 72.0,
    execute: Annotated[
        bool, typer.Option("--execute", help="Delete; without it, only say what would be.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete what no kept version names, a grace period after a run that first saw it unnamed."""
    report = _open(store).gc(
        name, keep_versions=keep_versions, grace_s=grace_hours * 3600, dry_run=not execute
    )
    if output is Output.JSON:
        print_json(asdict(report))
        return
    for key in report.deleted:
        typer.echo(key)
    verb = "deleted" if execute else "would delete"
    typer.echo(
        f"{verb} {len(report.deleted)} objects; {report.num_waiting} wait for their grace period; "
        f"{len(report.dropped_versions)} old versions dropped"
    )


def delete(
    store: StoreOption,
    name: NameArgument = "default",
    passage_id: Annotated[
        list[str] | None, typer.Option("--passage", help="A passage id; repeatable.")
    ] = None,
    document_id: Annotated[
        list[str] | None, typer.Option("--document", help="A document id; repeatable.")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="Filter, such as 'year < 2000'.")
    ] = None,
) -> None:
    """Delete passages by id, by document or by filter; older versions keep them until gc."""
    result = _open(store).delete(
        passage_ids=passage_id or None,
        document_ids=document_id or None,
        where=where,
        collection=name,
    )
    typer.echo(f"deleted {result.num_deleted} passages; version {result.version}")


def _open(store: str) -> Store:
    from memstore.service import open_store

    return open_store(store, create=False)
