"""Cranfield in memories: passages and questions, each with its retrieval vector, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import nDCG

from benchmarks.trec import read_cranfield
from memstore.encoders import EncoderOptions, load_encoder, load_splitter

NUM_CANDIDATES = 100  # passages a question


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """P passages of T tokens together, and the questions.

    Attributes:
        memories: (T, D) float32; passage i owns rows `offsets[i]:offsets[i + 1]`.
        token_ids: (T,) int64.
        embeddings: (P, E) float32.
        documents: (P,) whose passage it is.
        questions: id → (vector, memory), with the special tokens first and last.
        relevant: id → relevant documents.
    """

    memories: np.ndarray
    token_ids: np.ndarray
    offsets: np.ndarray
    embeddings: np.ndarray
    documents: list[str]
    questions: dict[str, tuple[np.ndarray, np.ndarray]]
    relevant: dict[str, set[str]]

    def candidates(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the best passages of each question by retrieval vector, and their scores."""
        found = {}
        for name, (vector, _) in self.questions.items():
            scores = self.embeddings @ vector
            rows = np.argsort(-scores, kind="stable")[:NUM_CANDIDATES]
            found[name] = rows, scores[rows]
        return found

    def best(self, rows: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Return each document's score: that of its best passage."""
        best: dict[str, float] = {}
        for row, score in zip(rows, scores.tolist(), strict=True):
            document = self.documents[row]
            best[document] = max(score, best.get(document, score))
        return best

    def ndcg(self, ranking: dict[str, dict[str, float]]) -> float:
        """Return the mean nDCG@10 of a ranking."""
        qrels = {name: dict.fromkeys(found, 1) for name, found in self.relevant.items()}
        return float(ir_measures.calc_aggregate([nDCG @ 10], qrels, ranking)[nDCG @ 10])


def read(data: Path) -> Material:
    """Encode the collection by the default encoder."""
    collection = read_cranfield(data)
    options = EncoderOptions()
    splitter, encoder = load_splitter(options), load_encoder(options)
    passages = [each for document in collection.documents for each in splitter.split(document)]
    offsets = np.cumsum([0, *(len(each.token_ids) for each in passages)])
    memories = np.empty((offsets[-1], encoder.identity.memory_dim), np.float32)
    embeddings = np.empty((len(passages), encoder.identity.embedding_dim), np.float32)
    for batch in encoder.encode(passages):
        embeddings[batch.rows] = batch.embeddings
        for i, row in enumerate(batch.rows):
            rows = slice(batch.offsets[i], batch.offsets[i + 1])
            memories[offsets[row] : offsets[row + 1]] = batch.memories[rows]
    return Material(
        memories=memories,
        token_ids=np.concatenate([each.token_ids for each in passages]).astype(np.int64),
        offsets=offsets,
        embeddings=embeddings,
        documents=[each.passage.document_id for each in passages],
        questions={name: encoder.question(text) for name, text in collection.queries.items()},
        relevant=collection.relevant,
    )
