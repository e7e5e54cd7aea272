"""What a reader makes of decompressed memories: Cranfield ranked by the layers above the split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.trec import TestCollection, read_cranfield
from memstore.encoders import EncoderOptions, load_encoder
from memstore.encoders.identity import plan_encoder

_BATCH = 64
_TOP = 10


@dataclass(frozen=True, slots=True)
class Ranking:
    """Top documents of every query, and nDCG@10."""

    top: list[set[int]]
    ndcg: float


class CranfieldReader:
    """Runs the live layers over memories, pools them, and ranks documents for the queries.

    Args:
        folder: of Cranfield.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel

        options = EncoderOptions()
        plan = plan_encoder(options)
        model = AutoModel.from_pretrained(
            plan.checkpoint.folder, local_files_only=True, use_safetensors=True
        )
        self._layers = model.encoder.layer[plan.identity.num_frozen_layers :].eval()
        self.collection: TestCollection = read_cranfield(folder)
        texts = list(self.collection.queries.values())
        self._queries = load_encoder(options).embed(texts)

    @torch.inference_mode()
    def rank(self, memories: np.ndarray, offsets: np.ndarray, owners: np.ndarray) -> Ranking:
        """Rank by the passages of each document: (T, D) memories, (P + 1,) offsets, (P,) owners."""
        vectors = self._pool(memories, offsets)
        scores = self._queries @ vectors.T
        num_documents = int(owners.max()) + 1
        best = np.full((len(scores), num_documents), -np.inf, np.float32)
        for passage, owner in enumerate(owners):
            best[:, owner] = np.maximum(best[:, owner], scores[:, passage])
        order = np.argsort(-best, axis=1, kind="stable")[:, :_TOP]
        ids = [document.document_id for document in self.collection.documents]
        gains = 1 / np.log2(np.arange(2, _TOP + 2))
        total = 0.0
        for row, query in zip(order, self.collection.queries, strict=True):
            relevant = self.collection.relevant.get(query, set())
            found = np.array([ids[document] in relevant for document in row])
            total += float((gains * found).sum() / gains[: len(relevant)].sum()) if relevant else 0
        return Ranking([set(row.tolist()) for row in order], total / len(order))

    def _pool(self, memories: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        lengths = np.diff(offsets)
        pooled = np.empty((len(lengths), memories.shape[1]), np.float32)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            states = torch.zeros(len(rows), int(lengths[rows].max()), memories.shape[1])
            for i, row in enumerate(rows):
                states[i, : lengths[row]] = torch.from_numpy(
                    memories[offsets[row] : offsets[row + 1]].astype(np.float32)
                )
            is_token = torch.arange(states.shape[1]) < torch.from_numpy(lengths[rows])[:, None]
            mask = torch.where(is_token, 0.0, torch.finfo(torch.float32).min)[:, None, None]
            for layer in self._layers:
                output = layer(states, attention_mask=mask)
                states = output if isinstance(output, torch.Tensor) else output[0]
            states = states * is_token[:, :, None]
            pooled[rows] = (states.sum(1) / is_token.sum(1, keepdim=True)).numpy()
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def overlap(ranking: Ranking, reference: Ranking) -> float:
    """Return the share of the reference's top documents that a ranking kept."""
    kept = [len(a & b) / _TOP for a, b in zip(ranking.top, reference.top, strict=True)]
    return float(np.mean(kept))
