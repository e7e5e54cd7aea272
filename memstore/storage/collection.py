"""A collection's objects under its name in a store: versions, shards, deletions, codecs,
dictionaries.

Reading starts from a version; writing an object publishes nothing: only `commit.py` makes a
version.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator

import numpy as np
from pyroaring import BitMap

from memstore.errors import (
    CodecNotFoundError,
    CollectionNotFoundError,
    ConfigError,
    CorruptionError,
    NotFoundError,
    SnapshotNotFoundError,
    StorageError,
    StorageFullError,
)
from memstore.storage.dictionary import dictionary_digest, dictionary_key
from memstore.storage.manifest import (
    Manifest,
    ShardEntry,
    ShardListRef,
    check_digest,
    pack_shard_list,
    unpack_shard_list,
    version_key,
)
from memstore.storage.objects import Buffer, ObjectReader, ObjectStore
from memstore.storage.sealed import unseal
from memstore.storage.shard import Shard, ShardContent, build_shard
from memstore.storage.snapshot import Snapshot
from memstore.types import CollectionInfo

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62})")
_HINT = "versions/LATEST"
CODEC_FILES = ("config.json", "codec.safetensors")


def check_collection_name(name: str) -> None:
    """Raise `ConfigError` unless the name is safe as an object key and a metric label."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"collection name {name!r}: wanted 1 to 63 of a-z, 0-9, '_' and '-', beginning with a "
            "letter or digit",
            collection=name,
        )


def list_collections(store: ObjectStore) -> list[str]:
    """Return the names of the collections that have at least one version, sorted."""
    names = [name for name in store.folders() if _NAME.fullmatch(name)]
    return [name for name in names if Collection(store, name).latest_version()]


class Collection:
    """One collection of a store. Safe to use from many threads."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        check_collection_name(name)
        self.store = store
        self.name = name
        self._lock = threading.Lock()
        self._newest: Snapshot | None = None
        self._dictionaries: dict[str, bytes] = {"": b""}

    def key(self, below: str) -> str:
        """Return the store's key for a key of this collection."""
        return f"{self.name}/{below}"

    def latest_version(self) -> int:
        """Return the newest version's number, 0 if there is none. The hint only says where to start
        looking.
        """
        version = self.hinted_version()
        if not version or not self._has_version(version):
            version = max(self.versions(), default=0)
        while self._has_version(version + 1):
            version += 1
        return version

    def versions(self) -> list[int]:
        """Return the numbers of all versions that are kept, rising."""
        names = (key.rsplit("/", 1)[1] for key in self.store.list(self.key("versions/")))
        return sorted(int(name[:20]) for name in names if re.fullmatch(r"\d{20}\.json", name))

    def manifest(self, version: int) -> Manifest:
        """Return a version's manifest.

        Raises:
            SnapshotNotFoundError: if there is no such version.
            CorruptionError: if its bytes do not match their digest.
        """
        key = self.key(version_key(version))
        try:
            body = unseal(self.store.get(key), key)
        except NotFoundError:
            raise SnapshotNotFoundError(
                f"collection {self.name!r} has no version {version}; the newest is "
                f"{self.latest_version()}",
                collection=self.name,
                version=version,
            ) from None
        manifest = Manifest.from_dict(body, key)
        if (manifest.collection, manifest.version) != (self.name, version):
            raise CorruptionError(
                f"{key}: holds version {manifest.version} of {manifest.collection!r}; restore it "
                "from a copy",
                object=key,
            )
        return manifest

    def info(self, version: int) -> CollectionInfo:
        """Return a version in figures; reads its manifest alone."""
        manifest = self.manifest(version)
        refs = manifest.shard_lists
        return CollectionInfo(
            name=manifest.collection,
            version=manifest.version,
            created_at=manifest.created_at,
            operation=manifest.operation,
            encoder_id=manifest.encoder_id,
            encoder_source=str(manifest.encoder.get("options", {}).get("source", "")),
            codec_id=manifest.codec_id,
            memory_dim=manifest.memory_dim,
            embedding_dim=manifest.embedding_dim,
            record_bytes=2 * manifest.record_words,
            num_passages=manifest.num_rows - manifest.num_deleted,
            num_tokens=sum(ref.num_tokens for ref in refs),
            num_deleted=manifest.num_deleted,
            num_shards=sum(ref.num_shards for ref in refs),
            shard_bytes=sum(ref.num_bytes for ref in refs),
            metadata_columns=dict(manifest.metadata_columns),
        )

    def snapshot(self, version: int | None = None) -> Snapshot:
        """Open a version, the newest by default; shards that an open snapshot shares are not opened
        again.

        Raises:
            CollectionNotFoundError, SnapshotNotFoundError, CorruptionError.
        """
        newest = self._newest
        if version is None:
            if newest is not None and self.is_newest(newest):
                return newest
            version = self.latest_version()
            if not version:
                raise self.not_found()
        elif newest is not None and newest.version == version:
            return newest
        snapshot = self._open(self.manifest(version))
        with self._lock:
            if self._newest is None or self._newest.version < version:
                self._newest = snapshot
        return snapshot

    def is_newest(self, snapshot: Snapshot) -> bool:
        """Say whether no version has followed this one."""
        # Without a look at the version itself, one whose successors were collected would pass.
        version = snapshot.version
        return self._has_version(version) and not self._has_version(version + 1)

    def entries(self, manifest: Manifest) -> Iterator[ShardEntry]:
        """Yield the shards of a manifest in row order."""
        for ref in manifest.shard_lists:
            yield from self.listed(ref)

    def listed(self, ref: ShardListRef) -> list[ShardEntry]:
        """Return the shards of a list.

        Raises:
            CorruptionError: if the list is gone or damaged.
        """
        return unpack_shard_list(ref, self._get_named(ref.key))

    def open_shard(self, entry: ShardEntry, record_words: int) -> Shard:
        """Return one shard, whose file is opened when it is first touched.

        Raises (from the shard's methods): CorruptionError, if it is gone, or has another length.
        """

        def open_reader() -> ObjectReader:
            try:
                return self.store.open(self.key(entry.key))
            except NotFoundError as err:
                raise self._gone(entry.key) from err

        return Shard(entry, record_words, open_reader, self.dictionary(entry.dictionary))

    def put_shard(self, content: ShardContent, name: str) -> ShardEntry:
        """Store a shard that no version names yet."""
        data, entry = build_shard(content, name)
        self.put_dictionary(content.dictionary)
        self.store.put(self.key(entry.key), data)
        return entry

    def put_shard_list(self, entries: list[ShardEntry]) -> ShardListRef:
        """Store a shard list."""
        ref, data = pack_shard_list(entries)
        self.store.put(self.key(ref.key), data)
        return ref

    def deleted_rows(self, ref: ShardListRef) -> BitMap:
        """Return the deleted rows of a list, counted from the list's first row."""
        if not ref.deletes:
            return BitMap()
        data = self._get_named(ref.deletes_key)
        check_digest(data, ref.deletes, ref.deletes_key)
        return BitMap.deserialize(data)

    def put_deletes(self, rows: BitMap) -> str:
        """Store a deletion bitmap; return its digest."""
        data = rows.serialize()
        digest = hashlib.sha256(data).hexdigest()
        self.store.put(self.key(f"deletes/{digest}.bin"), data)
        return digest

    def dictionary(self, digest: str) -> bytes:
        """Return a text dictionary by digest; empty for the empty name."""
        if digest not in self._dictionaries:
            self._dictionaries[digest] = self.read_dictionary(digest)
        return self._dictionaries[digest]

    def read_dictionary(self, digest: str) -> bytes:
        """Read a text dictionary from the store, whether or not it is at hand.

        Raises:
            CorruptionError: if it is gone or damaged.
        """
        data = self._get_named(dictionary_key(digest))
        check_digest(data, digest, dictionary_key(digest))
        return data

    def put_dictionary(self, dictionary: bytes) -> str:
        """Store a text dictionary; return its digest."""
        digest = dictionary_digest(dictionary)
        if digest:  # even if it is at hand here: the store may have lost it to a `gc` since
            self.store.put(self.key(dictionary_key(digest)), dictionary)
        return digest

    def put_codec(self, codec_id: str, files: dict[str, Buffer]) -> None:
        """Store a codec's files; the config comes last, so a codec with a config is whole."""
        for name in reversed(CODEC_FILES):
            self.store.put(self.key(f"codecs/{codec_id}/{name}"), files[name])

    def open_codec(self, codec_id: str) -> dict[str, ObjectReader]:
        """Open a codec's files by name; whoever parses them checks them against the id first.

        Raises:
            CodecNotFoundError: if the collection holds no such codec.
        """
        try:
            return {
                name: self.store.open(self.key(f"codecs/{codec_id}/{name}")) for name in CODEC_FILES
            }
        except NotFoundError as err:
            raise CodecNotFoundError(
                f"collection {self.name!r} holds no codec {codec_id[:16]}…",
                collection=self.name,
                codec_id=codec_id,
            ) from err

    def note_latest(self, version: int) -> None:
        """Leave the hint that later readers start from; without it they list the versions."""
        with contextlib.suppress(StorageError, StorageFullError):
            self.store.put_hint(self.key(_HINT), str(version).encode())

    def not_found(self) -> CollectionNotFoundError:
        """Return the error that says that there is no version at all."""
        return CollectionNotFoundError(
            f"no collection {self.name!r} in {self.store.location}; encode or write passages into "
            "it first",
            collection=self.name,
        )

    def hinted_version(self) -> int:
        """Return what the hint says, which may be anything; 0 if it says nothing."""
        try:
            text = self.store.get(self.key(_HINT))
        except NotFoundError:
            return 0
        return int(text) if re.fullmatch(rb"\d{1,19}", text) else 0

    def _has_version(self, version: int) -> bool:
        return self.store.exists(self.key(version_key(version)))

    def _get_named(self, key: str) -> bytes:
        try:
            return self.store.get(self.key(key))
        except NotFoundError as err:
            raise self._gone(key) from err

    def _gone(self, key: str) -> CorruptionError:
        return CorruptionError(
            f"{key}: collection {self.name!r} names it and it is gone; restore it", object=key
        )

    def _open(self, manifest: Manifest) -> Snapshot:
        known = {shard.entry: shard for shard in self._newest.shards} if self._newest else {}
        shards: list[Shard] = []
        deleted, start = [], 0
        for ref in manifest.shard_lists:
            shards += [
                known.get(entry) or self.open_shard(entry, manifest.record_words)
                for entry in self.listed(ref)
            ]
            deleted.append(start + np.asarray(self.deleted_rows(ref), dtype=np.int64))
            start += ref.num_passages
        rows = np.concatenate(deleted) if deleted else np.zeros(0, dtype=np.int64)
        return Snapshot(manifest, shards, rows)
