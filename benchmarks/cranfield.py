"""Cranfield by the command line and the service, against exact search on uncompressed vectors."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from ir_measures import R, nDCG

from benchmarks.harness import Cell, Context, Outcome, Table, check
from benchmarks.serving import MEMSTORE, folder_bytes, serve
from benchmarks.trec import TestCollection, read_cranfield
from encoder_jobs.stages import use_all_cores
from memstore import Client, open_store
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.evaluation import Ranking, write_run
from memstore.evaluation.files import in_order
from memstore.evaluation.retrieval import best_scores
from memstore.types import QuestionEncoder, TokenizedPassage

_MEASURES = (nDCG @ 10, R @ 100)
_TOP_K = 1_000  # passages; enough for 100 documents, each of which has a few
_IN_FILE = 100  # documents of a query in a run file
_RERANKED = 100  # passages a query
_SAMPLED_PASSAGES = 200
_SERVICE, _EXACT = "memstore", "exact-float32"


@dataclass(frozen=True, slots=True)
class _Uncompressed:
    """What the store is compared with: passages, with vectors and memories in float32."""

    encoder: QuestionEncoder
    passages: list[TokenizedPassage]
    embeddings: np.ndarray
    memories: list[np.ndarray]

    def scores(self, query: str) -> dict[str, float]:
        """Return every document's score: that of its best passage."""
        products = self.embeddings @ self.encoder.embed([query])[0]
        return best_scores(
            (each.passage.document_id, float(score))
            for each, score in zip(self.passages, products, strict=True)
        )


def run(context: Context) -> Outcome:
    """Encode the abstracts by CLI, ask the served store every query, and compare."""
    collection = read_cranfield(context.data)
    if context.quick:
        collection = collection.head(30)
    corpus, store = context.work / "corpus.jsonl", context.work / "store"
    collection.write_corpus(corpus)
    report = _encode(corpus, store)
    use_all_cores()
    exact = _uncompressed(collection)
    gates = check(
        {
            "the store holds exactly the passages of the corpus": lambda: _is_whole(store, exact),
            "every judged document is in the corpus": lambda: _judges_known(collection),
        }
    )
    with serve(store) as served, Client(served.address, cache_dir=context.work / "c") as client:
        ranking = {
            query: best_scores(
                (hit.document_id, hit.score) for hit in client.search(text, top_k=_TOP_K).hits
            )
            for query, text in collection.queries.items()
        }
        errors = _memory_errors(client, exact, context.seed)
        reranked = _rerank_table(collection, client, exact)
    truth = {query: exact.scores(text) for query, text in collection.queries.items()}
    for name, scores in ((_SERVICE, ranking), (_EXACT, truth)):
        first = {
            query: {each: found[each] for each in in_order(found)[:_IN_FILE]}
            for query, found in scores.items()
        }
        write_run(context.files / f"cranfield.{name}.run", first, name=name)
    return Outcome(
        gates=gates,
        settings={
            "documents": len(collection.documents),
            "queries": len(collection.queries),
            "passages": report["num_passages"],
            "tokens": report["num_tokens"],
            "top_k": _TOP_K,
            "reranked": _RERANKED,
        },
        tables=[
            _ranking_table(collection, ranking, truth),
            _memory_table(report, store, errors),
            reranked,
        ],
        notes=[
            "A document's score is that of its best passage. Relevant is what is judged above 0; "
            "the measures are those of ir-measures.",
            "The store keeps retrieval vectors in float16, and searches a collection of this size "
            "exactly; what it compresses are the memories, whose error stands in the second "
            "table.",
            f"The rankings are left in benchmarks/results/local/ as cranfield.{_SERVICE}.run and "
            f"cranfield.{_EXACT}.run.",
        ],
    )


def _encode(corpus: Path, store: Path) -> dict[str, Any]:
    command = [*MEMSTORE, "encode", str(corpus), "--store", str(store), "--output", "json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _uncompressed(collection: TestCollection) -> _Uncompressed:
    options = EncoderOptions()
    splitter, encoder = load_splitter(options), load_encoder(options)
    passages = [each for document in collection.documents for each in splitter.split(document)]
    embeddings = np.empty((len(passages), encoder.identity.embedding_dim), np.float32)
    memories = [embeddings] * len(passages)
    for batch in encoder.encode(passages):
        embeddings[batch.rows] = batch.embeddings
        for i, row in enumerate(batch.rows):
            memories[row] = batch.memories[batch.offsets[i] : batch.offsets[i + 1]]
    return _Uncompressed(encoder, passages, embeddings, memories)


def _is_whole(store: Path, exact: _Uncompressed) -> bool:
    stored = open_store(store).collection("default").snapshot().column("passage_id").to_pylist()
    return sorted(stored) == sorted(each.passage.passage_id for each in exact.passages)


def _judges_known(collection: TestCollection) -> bool:
    known = {document.document_id for document in collection.documents}
    return set(collection.relevant) <= set(collection.queries) and all(
        documents <= known for documents in collection.relevant.values()
    )


def _ranking_table(collection: TestCollection, ranking: Ranking, truth: Ranking) -> Table:
    qrels = {query: dict.fromkeys(found, 1) for query, found in collection.relevant.items()}
    rows: list[tuple[Cell, ...]] = []
    for name, scores in (
        ("exact search, float32 vectors", truth),
        ("memstore, over gRPC", ranking),
    ):
        found = ir_measures.calc_aggregate(_MEASURES, qrels, scores)
        rows.append(
            (name, *(f"{found[measure]:.4f}" for measure in _MEASURES), _overlap(scores, truth))
        )
    columns = ("ranking", *map(str, _MEASURES), "overlap of the first 10")
    title = f"{len(collection.queries)} queries over {len(collection.documents):,} abstracts"
    return Table(title=title, columns=columns, rows=rows)


def _overlap(ranking: Ranking, truth: Ranking) -> float:
    """Return the mean share of the first 10 documents that two rankings have in common."""
    shares = [len(_first(ranking[query]) & _first(truth[query])) / 10 for query in truth]
    return sum(shares) / len(shares)


def _first(scores: Mapping[str, float]) -> set[str]:
    return set(in_order(scores)[:10])


def _rerank_table(collection: TestCollection, client: Client, exact: _Uncompressed) -> Table:
    """Rank by retrieval, by MaxSim and by the mean of both; on float32 memories and on codes."""
    numbers = {each.passage.passage_id: row for row, each in enumerate(exact.passages)}
    owners = [each.passage.document_id for each in exact.passages]
    rankings: dict[str, dict[str, dict[str, float]]] = {}
    for query, text in collection.queries.items():
        retrieved = client.search(text, top_k=_RERANKED).hits
        reranked = client.search(text, top_k=_RERANKED, rerank=_RERANKED).hits
        retrieval = {numbers[hit.passage_id]: hit.score for hit in retrieved}
        means = {numbers[hit.passage_id]: hit.score for hit in reranked}
        _, question = exact.encoder.question(text)
        truth = {row: _max_similarity(question, exact.memories[row]) for row in retrieval}
        for name, scores in {
            "retrieval vectors alone": retrieval,
            "MaxSim alone, float32": truth,
            "MaxSim alone, on codes": {row: 2 * means[row] - retrieval[row] for row in means},
            "mean of both, float32": {row: (retrieval[row] + truth[row]) / 2 for row in truth},
            "mean of both, on codes (`rerank`)": means,
        }.items():
            ranked = best_scores((owners[row], score) for row, score in scores.items())
            rankings.setdefault(name, {})[query] = ranked
    qrels = {query: dict.fromkeys(found, 1) for query, found in collection.relevant.items()}
    rows: list[tuple[Cell, ...]] = []
    for name, ranking in rankings.items():
        found = ir_measures.calc_aggregate([nDCG @ 10], qrels, ranking)[nDCG @ 10]
        reference = rankings[name.split(",")[0] + ", float32"] if "codes" in name else ranking
        rows.append((name, f"{found:.4f}", _overlap(ranking, reference)))
    columns = ("order of the candidates", str(nDCG @ 10), "first 10 shared with float32")
    title = f"Reranking the best {_RERANKED} passages by token memories"
    return Table(title=title, columns=columns, rows=rows)


def _max_similarity(question: np.ndarray, memory: np.ndarray) -> float:
    """Return what `View.rerank` computes on codes, from vectors."""
    return float((memory @ question.T).max(axis=0).sum() / np.square(question).sum())


def _memory_errors(client: Client, exact: _Uncompressed, seed: int) -> tuple[float, float, int]:
    """Return centred relative MSE and mean cosine of served memories, and their number."""
    rng = np.random.default_rng(seed)
    count = min(_SAMPLED_PASSAGES, len(exact.passages))
    chosen = [exact.passages[row] for row in rng.choice(len(exact.passages), count, replace=False)]
    wanted, served = [], []
    for batch in exact.encoder.encode(chosen):
        wanted.append(batch.memories)
        ids = [chosen[row].passage.passage_id for row in batch.rows]
        served += [memory.decode("float32") for memory in client.fetch(ids).memories]
    memories, decoded = np.concatenate(wanted), np.concatenate(served)
    error = np.square(memories - decoded, dtype=np.float64).sum()
    centred = np.square(memories - memories.mean(axis=0), dtype=np.float64).sum()
    lengths = np.linalg.norm(memories, axis=1) * np.linalg.norm(decoded, axis=1)
    cosine = ((memories * decoded).sum(axis=1) / lengths).mean()
    return float(error / centred), float(cosine), len(memories)


def _memory_table(report: dict[str, Any], store: Path, errors: tuple[float, float, int]) -> Table:
    relative_mse, cosine, num_tokens = errors
    rows: list[tuple[Cell, ...]] = [
        ("bytes a token, bfloat16 → codes", f"{report['memory_bytes']} → {report['record_bytes']}"),
        (f"relative squared error, {num_tokens:,} served tokens", f"{relative_mse:.4f}"),
        ("the same by the job, on tokens held out", f"{report['reconstruction_error']:.4f}"),
        ("mean cosine", f"{cosine:.4f}"),
        ("bytes on disk", folder_bytes(store)),
        ("seconds of `memstore encode`, training included", report["seconds"]),
    ]
    return Table(title="Memories", columns=("of the memories", "value"), rows=rows)
