"""The store's use cases: write, search, query, fetch, delete, and the care of collections.

An embedded user holds one `Store`; the server wraps the same one. Each request reads one snapshot,
and the answer says which. A store follows new versions by itself.

Does not: know any transport, cluster or command line.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memstore.errors import (
    ConfigError,
    EncoderMismatchError,
    MemstoreError,
    NotFoundError,
    ShapeError,
)
from memstore.storage import (
    Collection,
    GcReport,
    ObjectReader,
    ObjectStore,
    PosixStore,
    Snapshot,
    VerifyReport,
    WriteMode,
    commit_delete,
    gc,
    list_collections,
    verify,
)
from memstore.types import (
    CollectionInfo,
    CommitResult,
    FetchResult,
    Hit,
    MemoryEncoder,
    Passage,
    QueryResult,
    QuestionEncoder,
    SearchResult,
)
from memstore.views import View, Views

if TYPE_CHECKING:
    from memstore.codec import ProductCodec

MAX_TOP_K = 1_000
MAX_FETCH_IDS = 1_000

log = logging.getLogger(__name__)


def open_store(
    path: str | Path,
    *,
    version: int | None = None,
    encoder: MemoryEncoder | None = None,
    create: bool = True,
    is_followed: bool = False,
) -> Store:
    """Open the store in a folder.

    Args:
        path: the folder; it is made at the first write.
        version: read this version instead of the newest, in every call that names none.
        encoder: turns questions into vectors; by default each collection's own encoder is loaded
            when first needed.
        create: False refuses a folder that does not exist.
        is_followed: see `Store`; for servers.

    Raises:
        NotFoundError: if there is no such folder and `create` is False.
        ConfigError: if `path` is a URL of a scheme that is not supported.
    """
    text = str(path)
    if "://" in text and not text.startswith("file://"):
        raise ConfigError(
            f"store {text!r}: this version keeps stores in local folders only; give a path"
        )
    folder = Path(text.removeprefix("file://"))
    if not create and not folder.is_dir():
        raise NotFoundError(
            f"store {text!r}: no such folder; encode a corpus into it first", path=text
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"store {text!r} is a file; wanted a folder")
    return Store(PosixStore(folder), version=version, encoder=encoder, is_followed=is_followed)


class Store:
    """Collections of compressed memories under one root. Safe to use from many threads.

    Every method may raise `CorruptionError` when stored bytes are not what was written, and
    `StorageError` when the medium fails.

    Args:
        objects: where the bytes are.
        version: what calls that name no version read; None: the newest.
        encoder: see `open_store`.
        is_followed: True for a server: somebody calls `refresh` now and then, and requests are
            answered from what it opened last; False: each call looks for a newer version itself.
    """

    def __init__(
        self,
        objects: ObjectStore,
        *,
        version: int | None = None,
        encoder: MemoryEncoder | None = None,
        is_followed: bool = False,
    ) -> None:
        self.objects = objects
        self._version = version
        self._views = Views(objects, is_followed=is_followed)
        self._is_followed = is_followed
        self._encoders: dict[str, MemoryEncoder] = {encoder.identity.id: encoder} if encoder else {}
        self._unusable_encoders: set[str] = set()
        self._loading = threading.Lock()

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
        """Return the best passages for a question.

        Args:
            query: a text, or its retrieval vector: (E,) floats.
            top_k: how many, 1 to 1,000.
            where: a filter on metadata columns (`"year >= 2019 and lang in ('de', 'en')"`).
            collection: where to look.
            version: which version, the newest by default.
            rerank: of so many passages, the best by retrieval vector, the best are then found by
                comparing the question's tokens with theirs, on the stored codes; `top_k` to 1,000,
                or 0 for none. Scores are then those of `View.rerank`. What it is worth stands in
                docs/results/rerank.md.

        Raises:
            ConfigError: for a bad `top_k`, `rerank` or filter, or if a vector is to be reranked.
            ShapeError: for a bad vector.
            CollectionNotFoundError, SnapshotNotFoundError.
            EncoderMismatchError: if the question is a text, and there is no encoder, or none that
                gives the tokens that `rerank` compares.
        """
        view = self._view(collection, version)
        _, hits = self._search(view, query, top_k, where, rerank)
        return SearchResult(collection=collection, version=view.snapshot.version, hits=hits)

    def query(
        self,
        query: str | np.ndarray,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
        version: int | None = None,
        rerank: int = 0,
    ) -> QueryResult:
        """Return the best passages for a question with their memories. Arguments and errors as
        `search`.
        """
        view = self._view(collection, version)
        rows, hits = self._search(view, query, top_k, where, rerank)
        manifest = view.snapshot.manifest
        return QueryResult(
            collection=collection,
            version=manifest.version,
            hits=hits,
            encoder_id=manifest.encoder_id,
            codec_id=manifest.codec_id,
            memories=tuple(
                view.memory(row, hit.passage_id) for row, hit in zip(rows, hits, strict=True)
            ),
        )

    def fetch(
        self, passage_ids: Sequence[str], *, collection: str = "default", version: int | None = None
    ) -> FetchResult:
        """Return passages and memories by id, in the order of the ids.

        Raises:
            PassageNotFoundError: if an id has no live passage. ConfigError: for no id or more than
                1,000.
        """
        if not 1 <= len(passage_ids) <= MAX_FETCH_IDS:
            raise ConfigError(
                f"fetch of {len(passage_ids)} passages; wanted 1 to {MAX_FETCH_IDS} a call"
            )
        view = self._view(collection, version)
        rows = view.locator.rows(passage_ids)
        manifest = view.snapshot.manifest
        return FetchResult(
            collection=collection,
            version=manifest.version,
            encoder_id=manifest.encoder_id,
            codec_id=manifest.codec_id,
            passages=tuple(view.snapshot.passage(row) for row in rows),
            memories=tuple(
                view.memory(row, name) for row, name in zip(rows, passage_ids, strict=True)
            ),
        )

    def write(
        self,
        passages: Sequence[Passage],
        memories: Sequence[np.ndarray],
        *,
        token_ids: Sequence[np.ndarray] | None = None,
        embeddings: np.ndarray | None = None,
        mode: WriteMode = "append",
        collection: str = "default",
        codec: ProductCodec | None = None,
        encoder_id: str = "",
    ) -> CommitResult:
        """Write memories that you bring yourself, as one version.

        Args:
            passages: N passages with unique ids.
            memories: N arrays, (T_i, D) floats each.
            token_ids: N arrays, (T_i,) integers each: wanted if the codec predicts from them.
            embeddings: (N, E) floats, scaled to unit length; by default the mean of each memory.
            mode: `"append"`, `"upsert"` (same passage ids are superseded) or `"replace"`.
            collection: made if it is not there.
            codec: of a new collection; by default trained on these memories.
            encoder_id: the encoder that made the memories; must be the collection's if it pins one.

        Raises:
            ShapeError, ConfigError, DuplicateIdError, AlreadyExistsError, CodecMismatchError,
            EncoderMismatchError, CommitConflictError, CommitUnknownError.
        """
        from memstore.ingest import write_memories

        target = self.collection(collection)
        commit = write_memories(
            target,
            passages,
            memories,
            token_ids=token_ids,
            embeddings=embeddings,
            mode=mode,
            codec=codec,
            encoder_id=encoder_id,
            load_codec=lambda codec_id: self._views.codec(target, codec_id),
        )
        return self._show(commit)

    def delete(
        self,
        *,
        passage_ids: Sequence[str] | None = None,
        document_ids: Sequence[str] | None = None,
        where: str | None = None,
        collection: str = "default",
    ) -> CommitResult:
        """Delete passages by id, by document or by filter: exactly one of the three. What is not
        there is no error.

        Raises:
            ConfigError: unless exactly one is given. CommitConflictError: if another writer was
                faster.
        """
        import pyarrow as pa

        given = {"passage_ids": passage_ids, "document_ids": document_ids, "where": where}
        chosen = [name for name, value in given.items() if value is not None]
        if len(chosen) != 1:
            raise ConfigError(
                f"delete wants one of passage_ids, document_ids and where; got {chosen or 'none'}"
            )
        target = self.collection(collection)
        snapshot = target.snapshot()
        if where is not None:
            rows = np.flatnonzero(snapshot.matching(where))
        else:
            column = "passage_id" if passage_ids is not None else "document_id"
            ids = passage_ids if passage_ids is not None else document_ids
            if isinstance(ids, str):
                raise ConfigError(f"delete: {column}s is one text; wanted a list")
            try:
                rows = snapshot.rows_with(column, pa.array(ids, pa.string()))
            except (pa.ArrowException, UnicodeEncodeError) as err:
                raise ConfigError(f"delete: {column}s holds what is no text") from err
        return self._show(commit_delete(target, snapshot, rows))

    def collections(self) -> list[CollectionInfo]:
        """Return every collection at its newest version, by name."""
        return [self.collection_info(name) for name in self.collection_names()]

    def collection_names(self) -> list[str]:
        """Return the names of the collections that have a version, sorted."""
        return list_collections(self.objects)

    def collection_info(
        self, collection: str = "default", version: int | None = None
    ) -> CollectionInfo:
        """Return a collection in figures."""
        target = self.collection(collection)
        if version is None:
            version = self._version
        if version is None:
            version = target.latest_version()
            if not version:
                raise target.not_found()
        return target.info(version)

    def versions(self, collection: str = "default") -> list[CollectionInfo]:
        """Return every kept version of a collection, the oldest first."""
        target = self.collection(collection)
        numbers = target.versions()
        if not numbers:
            raise target.not_found()
        return [target.info(number) for number in numbers]

    def verify(self, collection: str = "default", version: int | None = None) -> VerifyReport:
        """Read every byte of a version and compare its digests."""
        return verify(self.collection(collection), self._version if version is None else version)

    def gc(
        self,
        collection: str = "default",
        *,
        keep_versions: int = 10,
        grace_s: float = 72 * 3600.0,
        dry_run: bool = True,
    ) -> GcReport:
        """Delete what no kept version has named for a grace period; see `memstore.storage.gc`."""
        target = self.collection(collection)
        return gc(target, keep_versions=keep_versions, grace_s=grace_s, dry_run=dry_run)

    def codec(self, collection: str = "default", codec_id: str | None = None) -> ProductCodec:
        """Return a collection's codec: that of its newest version, or one by id.

        Raises:
            CodecNotFoundError, CorruptionError.
        """
        target = self.collection(collection)
        return self._views.codec(target, codec_id or target.snapshot().manifest.codec_id)

    def codec_files(self, collection: str, codec_id: str) -> dict[str, ObjectReader]:
        """Open a codec's files by name, for sending them on."""
        return self.collection(collection).open_codec(codec_id)

    def encoder(self, collection: str = "default", version: int | None = None) -> MemoryEncoder:
        """Return the encoder that a collection pins, loading it when first needed.

        Raises:
            EncoderMismatchError: if the collection has none, or what its source holds now is
                another one.
        """
        return self._encoder(self._view(collection, version).snapshot)

    def refresh(self, collections: Sequence[str] | None = None) -> None:
        """Open the newest version, with its index and encoder, of every collection that is open,
        or of those named, so that no request has to wait for it.

        Failures are logged: the versions that are open keep answering.
        """
        for name in self._views.names if collections is None else collections:
            try:
                view = self._views.advance(name)
                view.prepare()
            except MemstoreError as err:
                log.warning("collection %s: %s", name, err)
                continue
            self._refresh_encoder(view.snapshot)

    def collection(self, name: str) -> Collection:
        """Return a collection's storage. `ConfigError` for a name that cannot be one."""
        return self._views.collection(name)

    def _view(self, name: str, version: int | None) -> View:
        return self._views.get(name, self._version if version is None else version)

    def _show(self, commit: CommitResult) -> CommitResult:
        """Let the next request see what this store has just written."""
        if self._is_followed:
            self._views.advance(commit.collection)
        return commit

    def _refresh_encoder(self, snapshot: Snapshot) -> None:
        encoder_id = snapshot.manifest.encoder_id
        if "options" not in snapshot.manifest.encoder or encoder_id in self._unusable_encoders:
            return
        try:
            self._encoder(snapshot)
        except MemstoreError as err:  # said once: it does not mend itself
            self._unusable_encoders.add(encoder_id)
            log.warning("collection %s: %s", snapshot.manifest.collection, err)

    def _search(
        self, view: View, query: str | np.ndarray, top_k: int, where: str | None, rerank: int
    ) -> tuple[list[int], tuple[Hit, ...]]:
        if not 1 <= top_k <= MAX_TOP_K:
            raise ConfigError(f"top_k is {top_k}; wanted 1 to {MAX_TOP_K}")
        if rerank and not top_k <= rerank <= MAX_TOP_K:
            raise ConfigError(f"rerank is {rerank}; wanted 0, or top_k ({top_k}) to {MAX_TOP_K}")
        snapshot = view.snapshot
        vector, question = self._read(snapshot, query, with_memory=rerank > 0)
        allowed = None
        if where is not None:
            allowed = snapshot.matching(where)
        elif len(snapshot.deleted):
            allowed = snapshot.live
        rows, scores = view.index.search(vector, rerank or top_k, allowed)
        if question is not None:
            rows, scores = view.rerank(rows, scores, question)
            rows, scores = rows[:top_k], scores[:top_k]
        hits = tuple(
            _hit(snapshot.passage(int(row)), float(score))
            for row, score in zip(rows, scores, strict=True)
        )
        return [int(row) for row in rows], hits

    def _read(
        self, snapshot: Snapshot, query: str | np.ndarray, *, with_memory: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return a question's retrieval vector, and its memory if that is wanted."""
        memory = None
        if isinstance(query, str):
            if not query.strip():
                raise ConfigError("the question is empty; give some words or a vector")
            encoder = self._encoder(snapshot)
            if not with_memory:
                query = encoder.embed([query])[0]
            elif isinstance(encoder, QuestionEncoder):
                query, memory = encoder.question(query)
            else:
                raise EncoderMismatchError(
                    f"collection {snapshot.manifest.collection!r}: its encoder does not give the "
                    "memories of a question's tokens, which reranking compares; pass one with a "
                    "method `question` to open_store",
                    collection=snapshot.manifest.collection,
                )
        elif with_memory:
            raise ConfigError("a question that is a vector has no tokens to rerank by; use words")
        width = snapshot.manifest.embedding_dim
        vector = np.asarray(query, dtype=np.float32)
        if vector.shape != (width,):
            raise ShapeError(f"query vector of shape {vector.shape}; wanted ({width},)")
        if not np.isfinite(vector).all():
            raise ShapeError("query vector holds NaN or infinity; wanted finite numbers")
        return vector, memory

    def _encoder(self, snapshot: Snapshot) -> MemoryEncoder:
        manifest = snapshot.manifest
        encoder = self._encoders.get(manifest.encoder_id)
        if encoder is not None:
            return encoder
        where = f"collection {manifest.collection!r}"
        if "options" not in manifest.encoder:
            pinned = f"encoder {manifest.encoder_id[:16]}…" if manifest.encoder_id else "no encoder"
            raise EncoderMismatchError(
                f"{where} holds memories that its users brought, of {pinned}, and nothing says "
                "where that is; search it by vector, or pass their encoder to open_store",
                collection=manifest.collection,
            )
        from memstore.encoders import EncoderOptions, load_encoder

        with self._loading:  # the first caller loads it, the others wait
            encoder = self._encoders.get(manifest.encoder_id)
            if encoder is None:
                encoder = load_encoder(EncoderOptions.from_dict(manifest.encoder["options"]))
                if encoder.identity.id != manifest.encoder_id:
                    raise EncoderMismatchError(
                        f"{where} is pinned to encoder {manifest.encoder_id[:16]}…, but "
                        f"{manifest.encoder['options']['source']!r} is now "
                        f"{encoder.identity.id[:16]}…; restore the checkpoint or pass the encoder "
                        "to open_store",
                        collection=manifest.collection,
                    )
                self._encoders[manifest.encoder_id] = encoder
            return encoder


def _hit(passage: Passage, score: float) -> Hit:
    fields = {name: getattr(passage, name) for name in Passage.__dataclass_fields__}
    return Hit(score=score, **fields)
