"""Making a version: build the next manifest on the newest one, and create it if nobody was faster.

The create-only `put` of `versions/<n>.json` is the commit. An append that loses the race is rebuilt
on the winner; any other change conflicts loudly. If the answer to the put is lost, the version is
read back and its commit id compared.
"""

from __future__ import annotations

import dataclasses
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from memstore.errors import (
    AlreadyExistsError,
    CodecMismatchError,
    CollectionNotFoundError,
    CommitConflictError,
    CommitUnknownError,
    DuplicateIdError,
    EncoderMismatchError,
    ShapeError,
    SnapshotNotFoundError,
    StorageError,
    StorageFullError,
)
from memstore.storage.collection import CODEC_FILES, Collection
from memstore.storage.dictionary import dictionary_key
from memstore.storage.manifest import Manifest, ShardEntry, ShardListRef, version_key
from memstore.storage.schema import merge_metadata_columns
from memstore.storage.sealed import seal
from memstore.storage.snapshot import Snapshot
from memstore.types import CommitResult

WriteMode = Literal["append", "upsert", "replace"]
WRITE_MODES: tuple[WriteMode, ...] = ("append", "upsert", "replace")

_ATTEMPTS = 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What every passage of a collection has in common: encoder (empty: brought by the user), codec
    and widths.
    """

    encoder: dict[str, Any]
    codec_id: str
    memory_dim: int
    embedding_dim: int
    record_words: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewShards:
    """Shards that are stored and wait to be published.

    `replaces` names the column by which an upsert finds the passages that the new ones supersede:
    `"passage_id"`, or `"document_id"` when the new passages are whole documents.
    """

    entries: Sequence[ShardEntry]
    metadata_columns: dict[str, str]
    job_id: str = ""
    replaces: Literal["passage_id", "document_id"] = "passage_id"


def commit_shards(
    collection: Collection, new: NewShards, pins: Pins, mode: WriteMode
) -> CommitResult:
    """Publish shards as one version.

    Args:
        collection: where the shards are stored; it begins to exist with its first commit.
        new: the shards, in row order.
        pins: encoder and codec of the new passages; must equal the collection's, unless it is
            replaced.
        mode: `"append"` refuses ids that are there, `"upsert"` supersedes them, `"replace"` starts
            afresh.

    Raises:
        AlreadyExistsError, DuplicateIdError, EncoderMismatchError, CodecMismatchError, ShapeError,
        ConfigError, CommitConflictError, CommitUnknownError.
    """
    ids = _read_ids(collection, new, pins.record_words)
    _refuse_duplicates(ids["passage_id"])
    num_added = sum(entry.num_passages for entry in new.entries)
    num_deleted = 0

    def change(base: Snapshot | None) -> dict[str, Any]:
        nonlocal num_deleted
        num_deleted = 0
        refs: tuple[ShardListRef, ...] = ()
        columns = new.metadata_columns
        if base is not None and mode != "replace":
            check_pins(base.manifest, pins)
            columns = merge_metadata_columns(base.manifest.metadata_columns, columns)
            key = "passage_id" if mode == "append" else new.replaces
            rows = base.rows_with(key, ids[key])
            if mode == "append" and len(rows):
                raise _already_there(base, rows)
            num_deleted = len(rows)
            refs = _with_deleted(collection, base, rows)
        elif base is not None:
            num_deleted = int(base.live.sum())
        _check_stored(collection, new.entries, pins.codec_id)
        added = collection.put_shard_list(list(new.entries)) if new.entries else None
        return {
            "operation": mode,
            "job_id": new.job_id,
            "metadata_columns": columns,
            "shard_lists": (*refs, added) if added else refs,
            **dataclasses.asdict(pins),
        }

    manifest = _commit(collection, change, rebase=mode == "append")
    return CommitResult(
        collection=collection.name,
        version=manifest.version,
        num_added=num_added,
        num_deleted=num_deleted,
    )


def commit_delete(collection: Collection, base: Snapshot, rows: np.ndarray) -> CommitResult:
    """Delete rows of a snapshot as one version; no rows, no version.

    Raises:
        CommitConflictError: if the collection has moved on since the snapshot.
    """
    if not len(rows):
        return CommitResult(
            collection=collection.name, version=base.version, num_added=0, num_deleted=0
        )

    def change(newest: Snapshot | None) -> dict[str, Any]:
        if newest is None or newest.version != base.version:
            raise _conflict(collection, base.version + 1)
        kept = {
            field.name: getattr(base.manifest, field.name) for field in dataclasses.fields(Pins)
        }
        return {
            "operation": "delete",
            "job_id": "",
            "metadata_columns": base.manifest.metadata_columns,
            "shard_lists": _with_deleted(collection, base, rows),
            **kept,
        }

    manifest = _commit(collection, change, rebase=False)
    return CommitResult(
        collection=collection.name, version=manifest.version, num_added=0, num_deleted=len(rows)
    )


def check_pins(manifest: Manifest, pins: Pins) -> None:
    """Raise unless new passages are of the collection's own encoder, codec and widths."""
    where = f"collection {manifest.collection!r}"
    encoder_id = str(pins.encoder.get("id", ""))
    if encoder_id != manifest.encoder_id:
        raise EncoderMismatchError(
            f"{where} is pinned to encoder {_short(manifest.encoder_id)}, got "
            f"{_short(encoder_id)}; use that encoder, "
            "another collection, or mode 'replace'",
            collection=manifest.collection,
            wanted=manifest.encoder_id,
            got=encoder_id,
        )
    if pins.codec_id != manifest.codec_id:
        raise CodecMismatchError(
            f"{where} is pinned to codec {_short(manifest.codec_id)}, got {_short(pins.codec_id)}; "
            "use that codec, "
            "another collection, or mode 'replace'",
            collection=manifest.collection,
            wanted=manifest.codec_id,
            got=pins.codec_id,
        )
    for name in ("memory_dim", "embedding_dim", "record_words"):
        if getattr(pins, name) != getattr(manifest, name):
            raise ShapeError(
                f"{where}: {name} is {getattr(manifest, name)}, got {getattr(pins, name)}",
                collection=manifest.collection,
            )


def _commit(
    collection: Collection, change: Callable[[Snapshot | None], dict[str, Any]], *, rebase: bool
) -> Manifest:
    commit_id = uuid.uuid4().hex
    for attempt in range(_ATTEMPTS):
        try:
            base: Snapshot | None = collection.snapshot()
        except CollectionNotFoundError:
            base = None
        manifest = Manifest(
            collection=collection.name,
            version=base.version + 1 if base else 1,
            parent=base.version if base else 0,
            commit_id=commit_id,
            created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            **change(base),
        )
        if _put_version(collection, manifest):
            collection.note_latest(manifest.version)
            return manifest
        if not rebase:
            raise _conflict(collection, manifest.version)
        time.sleep(random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)))
    raise CommitConflictError(
        f"collection {collection.name!r}: {_ATTEMPTS} commits in a row lost the race; try again "
        "later",
        collection=collection.name,
    )


def _put_version(collection: Collection, manifest: Manifest) -> bool:
    """Create the version; True if it is ours, even when the answer was lost."""
    key = collection.key(version_key(manifest.version))
    failure: StorageError | StorageFullError | None = None
    try:
        if collection.store.put(key, seal(manifest.to_dict())):
            return True
    except (StorageError, StorageFullError) as err:
        failure = err
    try:
        if collection.manifest(manifest.version).commit_id != manifest.commit_id:
            return False
        collection.store.renew(key)  # it is there, but perhaps not yet durable
    except SnapshotNotFoundError:
        if failure is None:
            raise
        raise failure from None
    except StorageError as err:
        raise CommitUnknownError(
            f"{key}: the answer to the commit was lost and cannot be read back ({err}); see "
            f"whether it holds commit {manifest.commit_id} before trying again",
            object=key,
        ) from err
    return True


def _with_deleted(
    collection: Collection, base: Snapshot, rows: np.ndarray
) -> tuple[ShardListRef, ...]:
    """Return the base's shard lists with more rows deleted."""
    refs, start = [], 0
    for ref in base.manifest.shard_lists:
        first, last = np.searchsorted(rows, [start, start + ref.num_passages])
        if last > first:
            gone = collection.deleted_rows(ref)
            gone.update((rows[first:last] - start).tolist())
            ref = dataclasses.replace(
                ref, deletes=collection.put_deletes(gone), num_deleted=len(gone)
            )
        refs.append(ref)
        start += ref.num_passages
    return tuple(refs)


def _read_ids(collection: Collection, new: NewShards, record_words: int) -> dict[str, pa.Array]:
    """Return the new passages' ids, and their documents' if these are replaced. Each shard is
    closed before the next is opened: there may be more of them than files a process may open.
    """
    names = {"passage_id", new.replaces}
    parts: dict[str, list[pa.Array]] = {name: [] for name in names}
    for entry in new.entries:
        columns = collection.open_shard(entry, record_words).columns
        for name in names:
            parts[name].append(pa.array(columns.column(name).to_pylist(), pa.string()))
    return {name: pa.chunked_array(parts[name], pa.string()).combine_chunks() for name in names}


def _check_stored(collection: Collection, entries: Sequence[ShardEntry], codec_id: str) -> None:
    """Renew, just before publishing, what waited for it: a `gc` under way then leaves it alone."""
    keys = [entry.key for entry in entries]
    keys += sorted({dictionary_key(entry.dictionary) for entry in entries if entry.dictionary})
    keys += [f"codecs/{codec_id}/{name}" for name in CODEC_FILES]
    lost = [key for key in keys if not collection.store.renew(collection.key(key))]
    if lost:
        raise StorageError(
            f"{len(lost)} objects to be published are gone, the first is {lost[0]}; a gc with too "
            "short a grace period may have taken them: write them again",
            object=lost[0],
        )


def _refuse_duplicates(ids: pa.Array) -> None:
    counts = ids.value_counts()
    repeated = [
        item["values"]
        for item in counts.filter(pa.compute.greater(counts.field("counts"), 1)).to_pylist()
    ]
    if repeated:
        raise DuplicateIdError(
            f"{len(repeated)} passage ids occur more than once, among them "
            f"{', '.join(map(repr, repeated[:10]))}"
        )


def _already_there(base: Snapshot, rows: np.ndarray) -> AlreadyExistsError:
    first = [base.column("passage_id")[int(row)].as_py() for row in rows[:10]]
    return AlreadyExistsError(
        f"{len(rows)} of these passages are in collection {base.manifest.collection!r} already, "
        "among them "
        f"{', '.join(map(repr, first))}; use mode 'upsert' to supersede them",
        collection=base.manifest.collection,
    )


def _conflict(collection: Collection, version: int) -> CommitConflictError:
    return CommitConflictError(
        f"collection {collection.name!r}: another writer made version {version}; read it and try "
        "again",
        collection=collection.name,
        version=version,
    )


def _short(digest: str) -> str:
    return f"{digest[:16]}…" if digest else "(none: memories brought by the user)"
