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
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from memstore.errors import MemstoreError
from memstore.storage import Collection, Snapshot, seal, unseal

# Measured by `python -m benchmarks index`; docs/results/benchmarks.md has the table.
IVF_ROWS = 50_000
_NPROBE_SHARE = 1 / 16
_TAIL_SHARE = 0.2
_EXACT_ROWS = 2_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inverted:
    """An inverted file over the first rows of a snapshot.

    Attributes:
        index: the faiss index.
        lists: digests of the shard lists whose rows it holds; it serves every version that has them
            in front.
    """

    index: Any
    lists: tuple[str, ...]

    def serves(self, snapshot: Snapshot) -> bool:
        """Say whether its rows are in front of the snapshot's, with not too many after them."""
        lists = _lists(snapshot)
        num_after = snapshot.num_rows - self.index.ntotal
        is_prefix = bool(self.lists) and lists[: len(self.lists)] == self.lists
        return is_prefix and num_after <= _TAIL_SHARE * snapshot.num_rows


class VectorIndex:
    """Searches all rows of one snapshot.

    Args:
        snapshot: whose rows are searched.
        inverted: an index over its first rows, or None to search exactly.
    """

    def __init__(self, snapshot: Snapshot, inverted: Inverted | None = None) -> None:
        self.inverted = inverted
        self._snapshot = snapshot
        self._num_inverted = inverted.index.ntotal if inverted is not None else 0
        self._tail = _exact_index(snapshot.embeddings(self._num_inverted))

    @property
    def kind(self) -> str:
        """`"exact"` or `"ivf"`."""
        return "ivf" if self.inverted is not None else "exact"

    def search(
        self, vector: np.ndarray, top_k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best rows and their scores, at most `top_k`, best first.

        Args:
            vector: (E,) float32.
            top_k: how many.
            allowed: (N,) bool, the rows that may be returned; None: all.
        """
        if not self._num_inverted or allowed is None:
            return self._search_indexes(vector, top_k, allowed)
        num_allowed = int(np.count_nonzero(allowed))
        if num_allowed > _EXACT_ROWS:
            rows, scores = self._search_indexes(vector, top_k, allowed)
            if len(rows) == min(top_k, num_allowed):
                return rows, scores
        # Few rows pass, or they lie in lists that the question does not look into.
        return self._search_exactly(vector, top_k, allowed)

    def _search_indexes(
        self, vector: np.ndarray, top_k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        parts = [_search(self._tail, vector, top_k, allowed, first_row=self._num_inverted)]
        if self.inverted is not None:
            parts.append(_search(self.inverted.index, vector, top_k, allowed, first_row=0))
        rows, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
        return _best(rows, scores, top_k)

    def _search_exactly(
        self, vector: np.ndarray, top_k: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = np.flatnonzero(allowed)
        return _best(rows, self._score(vector, rows), top_k)

    def _score(self, vector: np.ndarray, rows: np.ndarray) -> np.ndarray:
        vectors = self._snapshot.embedding_rows(rows).astype(np.float32)
        scores: np.ndarray = vectors @ vector
        return scores


def open_index(
    collection: Collection, snapshot: Snapshot, previous: VectorIndex | None = None
) -> VectorIndex:
    """Return the index of a snapshot, sharing the inverted file of `previous` where it serves."""
    shared = previous.inverted if previous is not None else None
    if shared is not None and shared.serves(snapshot):
        return VectorIndex(snapshot, shared)
    return VectorIndex(snapshot, ensure_inverted(collection, snapshot))


def ensure_inverted(collection: Collection, snapshot: Snapshot) -> Inverted | None:
    """Return the stored inverted file for a snapshot, built anew if it is missing, damaged or too
    far behind; None for a snapshot that is searched exactly.
    """
    if snapshot.num_rows < IVF_ROWS:
        return None
    inverted = _load(collection, snapshot)
    if inverted is None:
        inverted = Inverted(build_inverted(snapshot.embeddings()), _lists(snapshot))
        _store(collection, snapshot, inverted)
    return inverted


def _lists(snapshot: Snapshot) -> tuple[str, ...]:
    return tuple(ref.digest for ref in snapshot.manifest.shard_lists)


def _best(rows: np.ndarray, scores: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best `top_k`, best first, the lower row first among equals."""
    order = np.lexsort((rows, -scores))[:top_k]
    return rows[order], scores[order]


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


def _store(collection: Collection, snapshot: Snapshot, inverted: Inverted) -> None:
    data = faiss.serialize_index(inverted.index).tobytes()
    digest = hashlib.sha256(data).hexdigest()
    index = collection.key(f"index/{digest}.faiss")
    pointer = collection.key(f"index/{snapshot.version:020d}.json")
    try:
        for key in (pointer, index):  # those that are there were found damaged
            collection.store.delete(key)
        collection.store.put(index, data)
        body = {"digest": digest, "lists": list(inverted.lists)}
        collection.store.put(pointer, seal(body))
    except MemstoreError as err:  # a reader without write access searches all the same
        log.warning("the index could not be stored: %s", err)


def _load(collection: Collection, snapshot: Snapshot) -> Inverted | None:
    """Return the newest stored index that serves the snapshot."""
    keys = collection.store.list(collection.key("index/"))
    lists = _lists(snapshot)
    for key in sorted((key for key in keys if key.endswith(".json")), reverse=True):
        try:
            pointer = unseal(collection.store.get(key), key)
            covered = tuple(pointer["lists"])
            if not covered or lists[: len(covered)] != covered:
                continue
            data = collection.store.get(collection.key(f"index/{pointer['digest']}.faiss"))
            if hashlib.sha256(data).hexdigest() != pointer["digest"]:
                log.warning("%s: the stored index is damaged; it is built again", key)
                continue
            index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
            inverted = Inverted(index, covered)
            if inverted.serves(snapshot):
                return inverted
        except MemstoreError as err:
            log.warning("%s: unusable (%s); the index is built again", key, err)
    return None
