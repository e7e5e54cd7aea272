"""Nearest passages of a snapshot by inner product (faiss).

Small collections are searched exactly. Beyond `IVF_ROWS` an inverted file is built once, stored
beside the collection under its own digest, and serves every later version that has the same rows in
front; rows appended since are searched exactly, and so is a filter that few rows pass. The stored
index is disposable: missing or damaged, it is built again.

Vectors are compared as stored, in float16 (docs/format.md); ties go to the lower row.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from memstore.errors import MemstoreError
from memstore.storage import Collection, Snapshot, seal, unseal

# Measured by `python -m benchmarks index`; docs/results/benchmarks.md has the table.
IVF_ROWS = 50_000
_NPROBE_SHARE = 1 / 16
_TAIL_SHARE = 0.2
_EXACT_ROWS = 20_000

log = logging.getLogger(__name__)


class VectorIndex:
    """Searches all rows of one snapshot.

    Args:
        snapshot: whose rows are searched.
        inverted: an index over the first `inverted.ntotal` rows, or None to search exactly.
    """

    def __init__(self, snapshot: Snapshot, inverted: Any | None = None) -> None:
        self._snapshot = snapshot
        self._inverted = inverted
        self._num_inverted = inverted.ntotal if inverted is not None else 0
        self._tail = _exact_index(snapshot.embeddings(self._num_inverted))

    @property
    def kind(self) -> str:
        """`"exact"` or `"ivf"`."""
        return "ivf" if self._inverted is not None else "exact"

    def search(
        self, vector: np.ndarray, top_k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best rows and their scores, at most `top_k`, best first.

        Args:
            vector: (E,) float32.
            top_k: how many.
            allowed: (N,) bool, the rows that may be returned; None: all.
        """
        split = self._num_inverted
        if allowed is not None and split and np.count_nonzero(allowed[:split]) <= _EXACT_ROWS:
            rows = np.flatnonzero(allowed)
            scores = self._score(vector, rows)
        else:
            parts = [_search(self._tail, vector, top_k, allowed, first_row=split)]
            if self._inverted is not None:
                parts.append(_search(self._inverted, vector, top_k, allowed, first_row=0))
            rows, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((rows, -scores))[:top_k]
        return rows[order], scores[order]

    def _score(self, vector: np.ndarray, rows: np.ndarray) -> np.ndarray:
        vectors = self._snapshot.embedding_rows(rows).astype(np.float32)
        scores: np.ndarray = vectors @ vector
        return scores


def open_index(collection: Collection, snapshot: Snapshot) -> VectorIndex:
    """Return the index of a snapshot, building and storing the inverted file if it is missing."""
    return VectorIndex(snapshot, ensure_inverted(collection, snapshot))


def ensure_inverted(collection: Collection, snapshot: Snapshot) -> Any | None:
    """Return the stored inverted file for a snapshot, built anew if it is missing, damaged or too
    far behind; None for a snapshot that is searched exactly.
    """
    if snapshot.num_rows < IVF_ROWS:
        return None
    inverted = _load(collection, snapshot)
    if inverted is None or snapshot.num_rows - inverted.ntotal > _TAIL_SHARE * snapshot.num_rows:
        inverted = build_inverted(snapshot.embeddings())
        _store(collection, snapshot, inverted)
    return inverted


def _exact_index(embeddings: np.ndarray) -> Any:
    index = faiss.IndexScalarQuantizer(
        embeddings.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    for start in range(0, len(embeddings), 65_536):
        index.add(embeddings[start : start + 65_536].astype(np.float32))
    return index


def build_inverted(embeddings: np.ndarray) -> Any:
    """Train and fill an inverted file over (N, E) float16 vectors."""
    num_rows, width = embeddings.shape
    num_lists = int(4 * np.sqrt(num_rows))
    log.info("building an inverted file of %d lists over %d passages", num_lists, num_rows)
    quantizer = faiss.IndexFlatIP(width)
    inverted = faiss.IndexIVFScalarQuantizer(
        quantizer,
        width,
        num_lists,
        faiss.ScalarQuantizer.QT_fp16,
        faiss.METRIC_INNER_PRODUCT,
        False,
    )
    sample = np.random.default_rng(0).choice(num_rows, min(num_rows, 40 * num_lists), replace=False)
    inverted.train(embeddings[np.sort(sample)].astype(np.float32))
    for start in range(0, num_rows, 65_536):
        inverted.add(embeddings[start : start + 65_536].astype(np.float32))
    inverted.nprobe = max(1, int(num_lists * _NPROBE_SHARE))
    return inverted


def _search(
    index: Any, vector: np.ndarray, top_k: int, allowed: np.ndarray | None, *, first_row: int
) -> tuple[np.ndarray, np.ndarray]:
    """Search an index whose first vector is row `first_row` of the snapshot."""
    if not index.ntotal:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    params = None
    if allowed is not None:
        bits = np.packbits(allowed[first_row : first_row + index.ntotal], bitorder="little")
        selector = faiss.IDSelectorBitmap(index.ntotal, faiss.swig_ptr(bits))
        params = (
            faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
            if isinstance(index, faiss.IndexIVF)
            else faiss.SearchParameters(sel=selector)
        )
    with _one_thread():
        scores, rows = index.search(vector[None], min(top_k, index.ntotal), params=params)
    found = rows[0] >= 0
    return rows[0][found] + first_row, scores[0][found]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let faiss answer one question with the calling thread: it would wake a team for nothing."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _pointer(snapshot: Snapshot, digest: str) -> dict[str, Any]:
    return {"digest": digest, "lists": [ref.digest for ref in snapshot.manifest.shard_lists]}


def _store(collection: Collection, snapshot: Snapshot, inverted: Any) -> None:
    data = faiss.serialize_index(inverted).tobytes()
    digest = hashlib.sha256(data).hexdigest()
    index = collection.key(f"index/{digest}.faiss")
    pointer = collection.key(f"index/{snapshot.version:020d}.json")
    try:
        for key in (pointer, index):  # those that are there were found damaged
            collection.store.delete(key)
        collection.store.put(index, data)
        collection.store.put(pointer, seal(_pointer(snapshot, digest)))
    except MemstoreError as err:  # a reader without write access searches all the same
        log.warning("the index could not be stored: %s", err)


def _load(collection: Collection, snapshot: Snapshot) -> Any | None:
    pointers = sorted(
        key for key in collection.store.list(collection.key("index/")) if key.endswith(".json")
    )
    lists = [ref.digest for ref in snapshot.manifest.shard_lists]
    for key in reversed(pointers):
        try:
            pointer = unseal(collection.store.get(key), key)
            covered = pointer["lists"]
            if covered and lists[: len(covered)] == covered:
                data = collection.store.get(collection.key(f"index/{pointer['digest']}.faiss"))
                if hashlib.sha256(data).hexdigest() == pointer["digest"]:
                    return faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
                log.warning("%s: the stored index is damaged; it is built again", key)
        except MemstoreError as err:
            log.warning("%s: unusable (%s); the index is built again", key, err)
    return None
