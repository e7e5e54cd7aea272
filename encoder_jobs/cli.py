"""Adds `memstore encode`, `memstore job …`, `memstore train …`, and to `memstore codec …` and
`memstore session …` what reads a corpus. Import-light: the work is imported when a command runs.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from encoder_jobs import codec_cli, session_cli, train_cli
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
)
from memstore.cli.render import Output, print_fields, print_json, print_table
from memstore.errors import JobNotFoundError, PartialError

if TYPE_CHECKING:
    from encoder_jobs.records import JobFolder

_NewStoreOption = Annotated[
    str, typer.Option("--store", help="Folder of the store; made if missing.")
]
_StoreOption = Annotated[str, typer.Option("--store", help="Folder of the store.")]
_CollectionOption = Annotated[str, typer.Option("--collection", help="Name of the collection.")]
_OutputOption = Annotated[Output, typer.Option("--output", help="How to print.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(encode)
    group = typer.Typer(help="Look at encoding jobs.", no_args_is_help=True)
    group.command()(ls)
    group.command()(show)
    app.add_typer(group, name="job")
    codec_cli.register(app)
    session_cli.register(app)
    train_cli.register(app)


def encode(
    corpus: CorpusArgument,
    store: _NewStoreOption,
    collection: _CollectionOption = "default",
    mode: Annotated[
        str,
        typer.Option(
            help="'append' refuses known documents, 'upsert' supersedes them, "
            "'replace' starts afresh."
        ),
    ] = "append",
    ray: RayOption = "none",
    encoder: EncoderOption = "all-MiniLM-L6-v2",
    live_fraction: LiveFractionOption = "1/3",
    retriever: Annotated[str, typer.Option(help="Another encoder for the retrieval vectors.")] = "",
    window_tokens: WindowTokensOption = 128,
    stride_tokens: StrideTokensOption = 0,
    template: TemplateOption = "{title} {text}",
    pool_tokens: Annotated[
        int,
        typer.Option(
            help="One memory for so many tokens of a passage, their mean; more than 1 for an "
            "encoder that reads documents whole (LongVQ)."
        ),
    ] = 1,
    codec: Annotated[
        str,
        typer.Option(
            help="'auto': the collection's, or one trained on a sample; or a codec's id or folder."
        ),
    ] = "auto",
    codec_sample_tokens: Annotated[
        int, typer.Option(help="Memories to train a new codec on.")
    ] = 131_072,
    codec_search: Annotated[
        str,
        typer.Option(
            help="'exact', or 'fast': at most 1 % more error, sooner with a large codebook."
        ),
    ] = "exact",
    layout: LayoutOption = "auto",
    id_field: IdFieldOption = None,
    text_field: TextFieldOption = None,
    title_field: TitleFieldOption = None,
    partition_bytes: Annotated[
        int,
        typer.Option(help="Text in one partition, which becomes one shard: what a crash can lose."),
    ] = 1 << 20,
    max_bad_fraction: Annotated[
        float, typer.Option(help="Refuse a corpus with a larger share of unreadable records.")
    ] = 0.001,
    quiet: QuietOption = False,
    output: _OutputOption = Output.TABLE,
) -> None:
    """Encode a corpus into a collection, exactly once.

    Killed at any point, the same command goes on where it was; run again when finished, it does
    nothing. Records that cannot be read go to a dead-letter file with their reasons, and the exit
    code is 5.
    """
    from encoder_jobs.job import encode as run

    report = run(
        corpus,
        store=store,
        ray=ray,
        quiet=quiet,
        collection=collection,
        mode=mode,
        encoder=encoder,
        live_fraction=live_fraction,
        retriever=retriever,
        window_tokens=window_tokens,
        stride_tokens=stride_tokens,
        template=template,
        pool_tokens=pool_tokens,
        codec=codec,
        codec_sample_tokens=codec_sample_tokens,
        codec_search=codec_search,
        layout=layout,
        id_field=id_field,
        text_field=text_field,
        title_field=title_field,
        partition_bytes=partition_bytes,
        max_bad_fraction=max_bad_fraction,
    )
    if output is Output.JSON:
        print_json(report.to_dict())
    else:
        print_fields(report.to_dict())
    if report.num_bad_records:
        left_out = (
            f"{report.num_bad_records} records could not be read and were left out; "
            f"see {report.dead_letters}"
        )
        if not report.already_done:
            raise PartialError(left_out)
        typer.echo(f"note: {left_out}", err=True)


def ls(
    store: _StoreOption,
    collection: _CollectionOption = "default",
    output: _OutputOption = Output.TABLE,
) -> None:
    """List the jobs of a collection."""
    rows = [_summary(job) for job in _jobs(store, collection)]
    if output is Output.JSON:
        print_json(rows)
    else:
        print_table(
            rows,
            ("job_id", "mode", "num_documents", "num_partitions", "num_done", "num_bad_records"),
        )


def show(
    job_id: Annotated[str, typer.Argument(help="Id of the job.")],
    store: _StoreOption,
    collection: _CollectionOption = "default",
    output: _OutputOption = Output.TABLE,
) -> None:
    """Show one job: its options and how far it is."""
    for job in _jobs(store, collection):
        if job.job_id == job_id:
            fields = {
                **_summary(job),
                "options": asdict(job.spec().options),
                "inputs": job.spec().inputs,
            }
            if output is Output.JSON:
                print_json(fields)
            else:
                print_fields(fields)
            return
    raise JobNotFoundError(f"collection {collection!r} has no job {job_id!r}; see memstore job ls")


def _jobs(store: str, collection: str) -> list[JobFolder]:
    from encoder_jobs.records import list_jobs
    from memstore.service import open_store

    return list(list_jobs(open_store(store, create=False).collection(collection)))


def _summary(job: JobFolder) -> dict[str, object]:
    spec, receipts = job.spec(), job.receipts()
    return {
        "job_id": job.job_id,
        "mode": spec.options.mode,
        "num_documents": spec.num_documents,
        "num_partitions": spec.num_partitions,
        "num_done": len(receipts),
        "num_bad_records": sum(len(receipt.bad_records) for receipt in receipts.values()),
    }
