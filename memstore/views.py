"""Open snapshots with what answers questions about them: codec, index, locator.

A store keeps one view of each collection's newest version, and the two older ones that were asked
for last. Whoever comes first opens a view; the others wait for it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from memstore.storage import Collection, ObjectStore, Snapshot
from memstore.types import Memory

if TYPE_CHECKING:
    from memstore.codec import ProductCodec
    from memstore.index import Locator, VectorIndex

_OLDER_VIEWS = 2
_OPENING_LOCKS = 32


class View:
    """A snapshot of a collection; index and locator are made when first needed."""

    def __init__(
        self,
        collection: Collection,
        snapshot: Snapshot,
        codec: ProductCodec,
        previous: View | None = None,
    ) -> None:
        self.collection, self.snapshot, self.codec = collection, snapshot, codec
        self._lock = threading.Lock()
        self._previous_index = previous._index if previous is not None else None
        self._index: VectorIndex | None = None
        self._locator: Locator | None = None

    @property
    def index(self) -> VectorIndex:
        """Finds rows by retrieval vector; takes over what the view before it had built."""
        from memstore.index import open_index

        with self._lock:
            if self._index is None:
                self._index = open_index(self.collection, self.snapshot, self._previous_index)
                self._previous_index = None
            return self._index

    @property
    def locator(self) -> Locator:
        """Finds rows by passage id."""
        from memstore.index import Locator

        with self._lock:
            if self._locator is None:
                self._locator = Locator(self.snapshot)
            return self._locator

    def prepare(self) -> None:
        """Make index and locator now, so that no request waits for them."""
        _ = self.index, self.locator

    def rerank(
        self, rows: np.ndarray, scores: np.ndarray, question: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Put rows in falling order of the mean of their score and their MaxSim.

        MaxSim is the sum, over the question's tokens, of the largest inner product with a token of
        the passage, as a share of what the question scores with itself. Encoders with a
        normalization after each layer give all tokens about the same length; for them this is the
        mean of the largest cosines.

        Args:
            rows: (N,) rows of the snapshot.
            scores: (N,) of retrieval.
            question: (T, D) float32: the question's memory.

        Returns:
            Rows and scores in the new order.

        Source: the interaction is ColBERT's (arXiv 2004.12832). Differs: the vectors are those of a
            layer that was not trained for it; docs/results/rerank.md says what that is worth.
        """
        from memstore.codec.similarity import max_similarity

        if not len(rows):
            return rows, scores
        records = [self.snapshot.records(int(row)) for row in rows]
        offsets = np.cumsum([0, *map(len, records)])
        found = max_similarity(self.codec, question, np.concatenate(records), offsets)
        means = (scores + found / np.square(question).sum()) / 2
        order = np.argsort(-means, kind="stable")
        return rows[order], means[order]

    def memory(self, row: int, passage_id: str) -> Memory:
        """Return the memory of a row."""
        return Memory(passage_id, self.snapshot.records(row), self.codec)


class Views:
    """The open views of a store. Safe to use from many threads.

    Args:
        objects: the store.
        is_followed: True: the newest version is the one that `advance` opened last, so that a
            request never waits for a new one; False: each request looks for a newer one itself.
    """

    def __init__(self, objects: ObjectStore, *, is_followed: bool) -> None:
        self._objects = objects
        self._is_followed = is_followed
        self._openings = [threading.Lock() for _ in range(_OPENING_LOCKS)]
        self._newest: dict[str, View] = {}
        self._older: OrderedDict[tuple[str, int], View] = OrderedDict()
        self._codecs: dict[str, ProductCodec] = {}

    @property
    def names(self) -> list[str]:
        """The collections that are open."""
        return list(self._newest)

    def collection(self, name: str) -> Collection:
        """Return a collection's storage. `ConfigError` for a name that cannot be one."""
        view = self._newest.get(name)
        return view.collection if view is not None else Collection(self._objects, name)

    def get(self, name: str, version: int | None) -> View:
        """Return the view of a version, the newest for None.

        Raises:
            CollectionNotFoundError, SnapshotNotFoundError, CodecNotFoundError, CorruptionError.
        """
        view = self._newest.get(name)
        if version is not None:
            is_open = view is not None and view.snapshot.version == version
            return view if view is not None and is_open else self._at(name, version)
        if view is not None and (self._is_followed or view.collection.is_newest(view.snapshot)):
            return view
        return self.advance(name)

    def advance(self, name: str) -> View:
        """Open the newest version, in full where views are followed, and return it."""
        collection = self.collection(name)
        with self._opening(name):
            snapshot = collection.snapshot()
            current = self._newest.get(name)
            if current is not None and current.snapshot is snapshot:
                return current
            view = View(collection, snapshot, self._codec(collection, snapshot), current)
            if self._is_followed:
                view.prepare()
            self._newest[name] = view
            return view

    def codec(self, collection: Collection, codec_id: str) -> ProductCodec:
        """Return a codec of a collection, opened once."""
        codec = self._codecs.get(codec_id)
        if codec is None:
            codec = self._codecs.setdefault(codec_id, load_codec(collection, codec_id))
        return codec

    def _codec(self, collection: Collection, snapshot: Snapshot) -> ProductCodec:
        return self.codec(collection, snapshot.manifest.codec_id)

    def _at(self, name: str, version: int) -> View:
        collection, key = self.collection(name), (name, version)
        with self._opening(name):
            view = self._older.pop(key, None)
            if view is None:
                snapshot = collection.snapshot(version)
                view = View(collection, snapshot, self._codec(collection, snapshot))
            self._older[key] = view  # now the one used last
            while len(self._older) > _OLDER_VIEWS:
                self._older.popitem(last=False)
            return view

    def _opening(self, name: str) -> threading.Lock:
        # A fixed number of locks: names come from callers, and there is no end of names.
        return self._openings[hash(name) % _OPENING_LOCKS]


def load_codec(collection: Collection, codec_id: str) -> ProductCodec:
    """Open a codec of a collection: a read-only mapping that all processes of a machine share.

    Raises:
        CodecNotFoundError: if there is none of this id. CorruptionError: if it is damaged.
    """
    from memstore.codec import ProductCodec

    files = {
        name: reader.read(0, reader.num_bytes)
        for name, reader in collection.open_codec(codec_id).items()
    }
    return ProductCodec.from_bytes(
        bytes(files["config.json"]), files["codec.safetensors"], codec_id=codec_id
    )
