"""Keeping a collection healthy: `verify` reads every byte that its versions name, `gc` removes what
none names.

`gc` works in two phases. An object that no kept version names is marked with the time at which that
was first seen,
and deleted by a run at least a grace period later, if it is still unnamed: a reader or a job that
    was under way has long finished by then. A marked object that is named again is unmarked.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from memstore.errors import ConfigError, CorruptionError, MemstoreError, NotFoundError
from memstore.storage.collection import CODEC_FILES, Collection
from memstore.storage.dictionary import dictionary_key
from memstore.storage.manifest import (
    Manifest,
    ShardEntry,
    ShardListRef,
    check_digest,
    version_key,
)
from memstore.storage.sealed import seal, unseal

DEFAULT_GRACE_S = 72 * 3600.0
DEFAULT_KEEP_VERSIONS = 10
_MARKS = "gc/marks.json"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` read and what it found wrong (`problems`: one line each)."""

    version: int
    num_objects: int
    num_bytes: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GcReport:
    """What `gc` deleted or, in a dry run, would delete; and what waits for its grace period."""

    dry_run: bool
    deleted: tuple[str, ...]
    num_waiting: int
    dropped_versions: tuple[int, ...]


def verify(collection: Collection, version: int | None = None) -> VerifyReport:
    """Read every object that a version names, the newest by default, and compare its digests.

    Raises:
        CollectionNotFoundError, SnapshotNotFoundError, CorruptionError: if there is no version to
            begin from.
    """
    newest = collection.latest_version()
    if not newest:
        raise collection.not_found()
    manifest = collection.manifest(newest if version is None else version)
    num_objects, num_bytes, problems = 1, 0, _lost_versions(collection)
    for check in _checks(collection, manifest):
        num_objects += 1
        try:
            num_bytes += check()
        except MemstoreError as err:
            problems.append(str(err))
    return VerifyReport(manifest.version, num_objects, num_bytes, tuple(problems))


def _checks(collection: Collection, manifest: Manifest) -> Iterator[Callable[[], int]]:
    """Yield one check an object; each returns the bytes that it read or raises."""
    yield partial(_read_codec, collection, manifest.codec_id)
    dictionaries = {""}
    for ref in manifest.shard_lists:
        if ref.deletes:
            yield partial(_read_deletes, collection, ref)
        try:
            entries = collection.listed(ref)
        except MemstoreError as err:
            yield partial(_fail, err)
            continue
        for entry in entries:
            if entry.dictionary not in dictionaries:
                dictionaries.add(entry.dictionary)
                yield partial(_read_dictionary, collection, entry.dictionary)
            yield partial(_read_shard, collection, entry, manifest.record_words)


def _lost_versions(collection: Collection) -> list[str]:
    """Describe versions that are gone: numbers rise by one, and `gc` drops the oldest first."""
    versions, hinted = collection.versions(), collection.hinted_version()
    lost = sorted(set(range(versions[0], versions[-1])) - set(versions))
    if hinted > versions[-1]:
        lost.append(hinted)
    return [
        f"{version_key(number)}: the version is gone (or only the hint that names it is damaged); "
        "restore it from a copy"
        for number in lost
    ]


def _read_codec(collection: Collection, codec_id: str) -> int:
    """Check the config against the codec's id, and the tensors against the config."""
    files = {
        name: reader.read(0, reader.num_bytes)
        for name, reader in collection.open_codec(codec_id).items()
    }
    config = bytes(files["config.json"])
    check_digest(config, codec_id, f"codecs/{codec_id}/config.json")
    for name, tensors in json.loads(config)["tensors"].items():
        check_digest(files[name], tensors["sha256"], f"codecs/{codec_id}/{name}")
    return sum(map(len, files.values()))


def _read_deletes(collection: Collection, ref: ShardListRef) -> int:
    return len(collection.deleted_rows(ref).serialize())


def _read_dictionary(collection: Collection, digest: str) -> int:
    return len(collection.read_dictionary(digest))


def _read_shard(collection: Collection, entry: ShardEntry, record_words: int) -> int:
    collection.open_shard(entry, record_words).verify()
    return entry.num_bytes


def _fail(err: MemstoreError) -> int:
    raise err


def gc(
    collection: Collection,
    *,
    keep_versions: int = DEFAULT_KEEP_VERSIONS,
    grace_s: float = DEFAULT_GRACE_S,
    dry_run: bool = True,
    now: float | None = None,
) -> GcReport:
    """Drop old versions and delete what no kept version has named for a grace period.

    Args:
        collection: what to clean.
        keep_versions: the newest so many versions stay readable.
        grace_s: seconds between first seeing an object unnamed and deleting it; longer than any
            read or job.
        dry_run: only report.
        now: seconds since the epoch; the clock's time by default.

    Raises:
        ConfigError: if fewer than one version would be kept or the grace period is negative.
        CorruptionError: if a kept version cannot be read; then nothing is deleted.
    """
    if keep_versions < 1 or grace_s < 0:
        raise ConfigError(
            f"gc: keep_versions {keep_versions} and grace_s {grace_s}; wanted at least 1 and 0"
        )
    now = time.time() if now is None else now
    store = collection.store
    versions = collection.versions()
    if not versions:
        raise collection.not_found()
    kept, dropped = versions[-keep_versions:], versions[:-keep_versions]
    manifests = [collection.manifest(version) for version in kept]
    named = set().union(*(_named_by(collection, manifest) for manifest in manifests))
    named |= _named_indexes(collection, manifests)
    present = {key.removeprefix(f"{collection.name}/") for key in store.list(collection.key(""))}
    unnamed = {key for key in present - named if not key.startswith(_KEPT_FOLDERS)}
    marks = {key: first for key, first in _read_marks(collection).items() if key in unnamed}
    for key in unnamed:
        marks.setdefault(key, now)

    def is_ripe(key: str) -> bool:
        # Twice: marked for long enough, and not renewed since by a writer that is about to name it.
        last = max(marks[key], store.modified_at(collection.key(key)))
        return now - last >= grace_s

    ripe = sorted(filter(is_ripe, marks))
    if not dry_run:
        for key in reversed(ripe):  # versions before what they name
            store.delete(collection.key(key))
            del marks[key]
        store.put_hint(collection.key(_MARKS), seal({"first_seen_unnamed": marks}))
    return GcReport(dry_run, tuple(ripe), len(unnamed) - len(ripe), tuple(dropped))


# Hints and marks are overwritten in place, never collected; a job's records say what need not be
# done again.
_KEPT_FOLDERS = ("versions/LATEST", "gc/", "jobs/")


def _named_by(collection: Collection, manifest: Manifest) -> set[str]:
    keys = {version_key(manifest.version)}
    keys |= {f"codecs/{manifest.codec_id}/{name}" for name in CODEC_FILES}
    for ref in manifest.shard_lists:
        keys |= {ref.key, ref.deletes_key}
    for entry in collection.entries(manifest):
        keys |= {entry.key, dictionary_key(entry.dictionary)}
    return keys


def _named_indexes(collection: Collection, manifests: Sequence[Manifest]) -> set[str]:
    """Return the indexes over rows that a kept version has in front, whichever version built them.

    A damaged pointer names nothing: the index is rebuilt.
    """
    keys: set[str] = set()
    for key in collection.store.list(collection.key("index/")):
        with contextlib.suppress(CorruptionError, NotFoundError):
            pointer = unseal(collection.store.get(key), key) if key.endswith(".json") else {}
            lists = pointer.get("lists", [])
            if lists and any(
                [ref.digest for ref in manifest.shard_lists[: len(lists)]] == lists
                for manifest in manifests
            ):
                keys |= {
                    key.removeprefix(f"{collection.name}/"),
                    f"index/{pointer['digest']}.faiss",
                }
    return keys


def _read_marks(collection: Collection) -> dict[str, float]:
    key = collection.key(_MARKS)
    try:
        marks: dict[str, float] = unseal(collection.store.get(key), key)["first_seen_unnamed"]
    # Without marks the grace period begins anew: late, never early.
    except (NotFoundError, CorruptionError):
        return {}
    return marks
