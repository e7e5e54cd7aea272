"""`memstore eval …`: score what a store finds and what a reader answers, on judged test sets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memstore.cli.query import (
    CollectionOption,
    OutputOption,
    ServerOption,
    StoreOption,
    TokenFileOption,
    VersionOption,
    open_source,
)
from memstore.cli.render import Output, print_json, print_table
from memstore.errors import ConfigError

if TYPE_CHECKING:
    from memstore.evaluation import Prediction, Question, RetrievalReport, Score
    from memstore.types import MemorySource

_COLUMNS = ("measure", "mean", "low", "high")


class Level(StrEnum):
    """What `--level` takes."""

    DOCUMENT = "document"
    PASSAGE = "passage"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Score retrieval and reading.", no_args_is_help=True)
    group.command()(retrieval)
    group.command()(reading)
    app.add_typer(group, name="eval")


def retrieval(
    queries: Annotated[
        Path, typer.Argument(help="BEIR's queries.jsonl, lines of id, tab, text, or TREC topics.")
    ],
    qrels: Annotated[Path, typer.Argument(help="Judgements, in BEIR's or TREC's columns.")],
    store: StoreOption = None,
    server: ServerOption = None,
    top_k: Annotated[
        int, typer.Option("--top-k", help="How many results of a query are seen, 1 to 1000.")
    ] = 100,
    level: Annotated[
        Level, typer.Option("--level", help="What the judgements are of.")
    ] = Level.DOCUMENT,
    by_position: Annotated[
        bool,
        typer.Option(
            "--by-position",
            help="Count the queries from 1, whatever their ids; so do Cranfield's judgements.",
        ),
    ] = False,
    rerank: Annotated[
        bool,
        typer.Option(
            "--rerank", help="Order the best 10 x top_k passages, at most 1000, by their memories."
        ),
    ] = False,
    where: Annotated[
        str | None, typer.Option("--where", help="Filter, such as 'year >= 2019'.")
    ] = None,
    collection: CollectionOption = "default",
    version: VersionOption = None,
    run_file: Annotated[
        Path | None, typer.Option("--run-file", help="Write the ranking here, in TREC's columns.")
    ] = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask every judged query, and score the ranking: nDCG@10, R@100, RR@10 (MRR) and AP (MAP).

    A document's score is that of its best passage. Queries that find nothing count as 0; those
    that nobody judged are left out. Means stand with a 95 % bootstrap interval over queries.
    Needs the extra eval.
    """
    from memstore import evaluation

    if run_file is not None:
        evaluation.check_run_file(run_file)
    texts = evaluation.read_queries(queries, by_position=by_position)
    judged = evaluation.read_qrels(qrels)
    source = open_source(store, server, token_file)
    with typer.progressbar(length=len(judged), label="queries", file=sys.stderr) as bar:
        report = evaluation.evaluate_retrieval(
            source,
            texts,
            judged,
            top_k=top_k,
            level=level.value,
            rerank=rerank,
            where=where,
            collection=collection,
            version=version,
            progress=lambda: bar.update(1),
        )
    if run_file is not None:
        evaluation.write_run(run_file, report.ranking, name="memstore")
    if output is Output.JSON:
        settings = {"level": level.value, "top_k": top_k, "rerank": rerank, "where": where}
        print_json({**_figures(report), **settings, "measures": _measures(report.scores)})
        return
    _print_scores(report.scores)
    typer.echo(
        f"{len(report.ranking):,} queries on {collection}, version {report.version};"
        f" {report.num_without_hits:,} found nothing; {report.num_unjudged:,} are not judged",
        err=True,
    )


def reading(
    answers: Annotated[
        Path, typer.Argument(help="Gold answers: SQuAD JSON, KILT or plain JSON lines.")
    ],
    predictions: Annotated[
        Path | None,
        typer.Argument(help="SQuAD's id → answer, KILT's lines, or lines of id and answer."),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option("--reader", help="Instead of predictions: folder of a LUMEN reader to ask."),
    ] = None,
    store: StoreOption = None,
    server: ServerOption = None,
    top_k: Annotated[
        int, typer.Option("--top-k", help="Passages that the reader reads for a question.")
    ] = 8,
    collection: CollectionOption = "default",
    predictions_file: Annotated[
        Path | None,
        typer.Option("--predictions-file", help="Write the reader's answers here, as KILT's."),
    ] = None,
    token_file: TokenFileOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Score answers: EM and F1 as SQuAD's, R-precision of the documents they rest on as KILT's.

    The answers are in a file, or those of a reader on a store or a server. All are from 0 to 1. A
    question without a prediction counts as 0. Means stand with a 95 % bootstrap interval over
    questions.
    """
    from memstore import evaluation

    questions = evaluation.read_questions(answers)
    if predictions is not None:
        if reader or store or server or predictions_file:
            raise ConfigError(
                "PREDICTIONS are there already; --reader, --store, --server and "
                "--predictions-file are for a reader that is asked"
            )
        found = evaluation.read_predictions(predictions)
    elif reader is not None:
        source = open_source(store, server, token_file)
        found = _ask(reader, source, questions, predictions_file, collection, top_k)
    else:
        raise ConfigError("give one of PREDICTIONS and --reader PATH, with --store or --server")
    report = evaluation.score_answers(questions, found)
    figures = {"num_questions": report.num_questions, "num_missing": report.num_missing}
    if output is Output.JSON:
        print_json({**figures, "measures": _measures(report.scores)})
        return
    _print_scores(report.scores)
    typer.echo(
        f"{report.num_questions:,} questions; {report.num_missing:,} without a prediction", err=True
    )


def _ask(
    reader: str,
    source: MemorySource,
    questions: Sequence[Question],
    predictions_file: Path | None,
    collection: str,
    top_k: int,
) -> dict[str, Prediction]:
    """Let a reader answer; what it says is written before it is scored."""
    from memstore import evaluation
    from memstore.readers import LumenReader

    if predictions_file is not None:
        evaluation.check_run_file(predictions_file)
    mounted = LumenReader.from_pretrained(reader, source, collection=collection, top_k=top_k)
    with typer.progressbar(length=len(questions), label="questions", file=sys.stderr) as bar:
        found = evaluation.ask_reader(mounted, questions, progress=bar.update)
    if predictions_file is not None:
        evaluation.write_predictions(predictions_file, found)
    return found


def _figures(report: RetrievalReport) -> dict[str, object]:
    return {
        "collection": report.collection,
        "version": report.version,
        "num_queries": len(report.ranking),
        "num_without_hits": report.num_without_hits,
        "num_unjudged": report.num_unjudged,
    }


def _measures(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    return {each.measure: each.to_dict() for each in scores}


def _print_scores(scores: Sequence[Score]) -> None:
    print_table([{"measure": each.measure, **each.to_dict()} for each in scores], _COLUMNS)
