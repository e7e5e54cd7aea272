"""How well a store finds what is judged relevant: nDCG, recall, reciprocal rank, average precision.

A document's score is that of its best passage. Every judged query counts, one without any hit as 0.
The measures are those of ir-measures (`pip install 'memstore[eval]'`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from memstore.errors import ConfigError, MissingDependencyError, PassageNotFoundError
from memstore.evaluation.files import in_order
from memstore.evaluation.scores import Score, score
from memstore.types import Hit, MemorySource, SearchResult

Ranking = Mapping[str, Mapping[str, float]]
"""Query id → id of a document or passage → score."""

Qrels = Mapping[str, Mapping[str, int]]
"""Query id → id of a document or passage → relevance; above 0 is relevant."""

LEVELS = ("document", "passage")
"""What the judgements are of."""

_MAX_PASSAGES = 1_000  # no store looks at more
_PASSAGES_PER_RESULT = 10
_PROBED = 10


class Searcher(MemorySource, Protocol):
    """A `MemorySource` that also finds passages without their memories: a `Store`, a `Client`."""

    def search(
        self,
        query: str | np.ndarray,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
        version: int | None = None,
        rerank: int = 0,
    ) -> SearchResult:
        """Return the `top_k` best passages for a question; see `Store.search`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RetrievalReport:
    """What an evaluation found.

    Attributes:
        scores: one a measure; `values` in the order of the judgements.
        ranking: of every judged query, in that order, the best `top_k`; empty where nothing was
            found.
        version: of the collection that answered, the same for every query.
        num_unjudged: queries that were left out, because nothing is judged for them.
    """

    scores: tuple[Score, ...]
    ranking: Ranking
    collection: str
    version: int
    num_unjudged: int

    @property
    def num_without_hits(self) -> int:
        """Queries that found nothing; they count as 0."""
        return sum(not scores for scores in self.ranking.values())


def evaluate_retrieval(
    source: Searcher,
    queries: Mapping[str, str],
    qrels: Qrels,
    *,
    top_k: int = 100,
    level: str = "document",
    rerank: bool = False,
    where: str | None = None,
    collection: str = "default",
    version: int | None = None,
    progress: Callable[[], object] | None = None,
) -> RetrievalReport:
    """Ask every judged query and score the ranking.

    Args:
        source: a store or a client.
        queries: texts by id; those without judgements are left out.
        qrels: the judgements.
        top_k: how many documents (or passages) of each query are ranked, 1 to 1,000.
        level: "document" or "passage": what ids the judgements have.
        rerank: order the 10 x `top_k` best passages, at most 1,000, anew; see `Store.search`.
        where: filter over metadata columns.
        collection: name of the collection.
        version: version to read; None: the newest when the first query is asked.
        progress: called after each query.

    Raises:
        ConfigError: for a bad `top_k` or `level`; if judged queries are not among the queries, or
            no judged id is in the collection.
        MissingDependencyError: if ir-measures is not installed.
        MemstoreError: as `Store.search`.
    """
    _import_measures()  # before any work
    if not 1 <= top_k <= _MAX_PASSAGES:
        raise ConfigError(f"top_k is {top_k}; wanted 1 to {_MAX_PASSAGES}")
    if level not in LEVELS:
        raise ConfigError(f"level is {level!r}; wanted {' or '.join(LEVELS)}")
    _check_queries(queries, qrels)
    wide = min(_PASSAGES_PER_RESULT * top_k, _MAX_PASSAGES)
    ranking: dict[str, dict[str, float]] = {}
    for name in qrels:
        found = source.search(
            queries[name],
            top_k=wide if level == "document" else top_k,
            where=where,
            collection=collection,
            version=version,
            rerank=wide if rerank else 0,
        )
        version = found.version  # the next query reads what this one read
        ranking[name] = _cut(found.hits, level, top_k)
        if progress is not None:
            progress()
    _check_documents(source, ranking, qrels, level, collection)
    return RetrievalReport(
        scores=score_ranking(ranking, qrels, depth=top_k),
        ranking=ranking,
        collection=collection,
        version=version or 0,
        num_unjudged=len(queries) - len(ranking),
    )


def score_ranking(ranking: Ranking, qrels: Qrels, *, depth: int = 100) -> tuple[Score, ...]:
    """Score a ranking by ir-measures: nDCG@10, R@100, RR@10 and AP.

    Args:
        ranking: of any judged queries; a judged query that is missing from it, or has no hit there,
            counts as 0.
        qrels: the judgements.
        depth: how many of each query's results there are to see, at least 1. No measure looks
            further, and its name says how far it looked: with 20, recall is R@20.

    Returns:
        One score a measure; values in the order of `qrels`.

    Raises:
        ConfigError: if `depth` is below 1, there is no judgement, or the ranking has queries that
            are not judged.
        MissingDependencyError: if ir-measures is not installed.
    """
    measures = _import_measures()
    if depth < 1:
        raise ConfigError(f"depth is {depth}; wanted 1 or more")
    if not qrels:
        raise ConfigError("no query is judged")
    unknown = [name for name in ranking if name not in qrels]
    if unknown:
        raise ConfigError(f"the ranking has {len(unknown)} unjudged queries: {_some(unknown)}")
    ten, hundred = min(10, depth), min(100, depth)
    wanted = [measures.nDCG @ ten, measures.R @ hundred, measures.RR @ ten, measures.AP @ depth]
    # Places instead of scores: whoever breaks ties in another way sees no tie. Some know no
    # negative grades.
    run = {
        name: {each: float(-place) for place, each in enumerate(in_order(scores)[:depth])}
        for name, scores in ranking.items()
        if scores
    }
    grades = {
        name: {each: max(grade, 0) for each, grade in judged.items()}
        for name, judged in qrels.items()
    }
    rows = {name: row for row, name in enumerate(qrels)}
    values = {str(measure): np.zeros(len(rows)) for measure in wanted}
    for found in measures.iter_calc(wanted, grades, run):
        values[str(found.measure)][rows[found.query_id]] = found.value
    return tuple(score(name, column) for name, column in values.items())


def best_scores(scored: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the best score of each id."""
    best: dict[str, float] = {}
    for name, value in scored:
        best[name] = max(value, best.get(name, value))
    return best


def _cut(hits: Iterable[Hit], level: str, top_k: int) -> dict[str, float]:
    """Return the best `top_k` documents or passages with their scores, the best first."""
    best = best_scores(
        (hit.document_id if level == "document" else hit.passage_id, hit.score) for hit in hits
    )
    return {name: best[name] for name in in_order(best)[:top_k]}


def _check_queries(queries: Mapping[str, str], qrels: Qrels) -> None:
    unknown = [name for name in qrels if name not in queries]
    if not unknown:
        return
    hint = "judgements that count queries from 1 want them read by position (--by-position)"
    if len(unknown) == len(qrels):
        raise ConfigError(
            f"no query is judged: the queries have ids such as {_some(queries)}, the judgements"
            f" {_some(qrels)}; {hint}"
        )
    raise ConfigError(
        f"{len(unknown)} of {len(qrels)} judged queries are not among the queries:"
        f" {_some(unknown)}; {hint}"
    )


def _check_documents(
    source: MemorySource, ranking: Ranking, qrels: Qrels, level: str, collection: str
) -> None:
    """Refuse judgements of another corpus, whose every measure would be 0 for no fault of a store.

    Nobody can list a server's ids; so it is asked for some, if nothing judged was found at all.
    """
    found = {each for scores in ranking.values() for each in scores}
    judged = {each: None for of_query in qrels.values() for each in of_query}
    if not found or found & judged.keys():
        return
    for name in list(judged)[:_PROBED]:
        passage_id = name if level == "passage" else f"{name}#0"
        try:
            source.fetch([passage_id], collection=collection)
        except PassageNotFoundError:
            continue
        return
    raise ConfigError(
        f"no judged {level} is in the collection {collection!r}: it has ids such as"
        f" {_some(found)}, the judgements {_some(judged)}; is it the right collection and level?"
    )


def _some(names: Iterable[str]) -> str:
    """Quote the first three."""
    first = list(names)
    return ", ".join(map(repr, first[:3])) + (", …" if len(first) > 3 else "")


def _import_measures() -> Any:
    try:
        import ir_measures
    except ModuleNotFoundError as err:
        raise MissingDependencyError(
            f"measures of retrieval need {err.name!r}; install it with:"
            " pip install 'memstore[eval]'",
            extra="eval",
        ) from err
    return ir_measures
