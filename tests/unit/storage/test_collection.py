"""A collection's objects: which version is newest, and what is missing or not its own."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pyroaring import BitMap

from memstore import ProductCodec, Store
from memstore.errors import (
    CodecNotFoundError,
    CollectionNotFoundError,
    ConfigError,
    CorruptionError,
    SnapshotNotFoundError,
)
from memstore.storage import (
    Collection,
    PosixStore,
    check_collection_name,
    gc,
    list_collections,
    seal,
)
from memstore.storage.manifest import version_key
from memstore.types import Passage

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]


@pytest.fixture
def three(store: Store, make_memories: MakeMemories) -> Collection:
    """A collection with versions 1 to 3, opened afresh."""
    store.write(*make_memories(["d#0"]))
    store.delete(passage_ids=["a#0"])
    return Collection(store.objects, "default")


def _file(collection: Collection, below: str) -> Path:
    return Path(collection.store.location) / collection.name / below


@pytest.mark.parametrize("name", ["default", "a", "0", "a-b_c", "x" * 63])
def test_plain_names_are_accepted(name: str) -> None:
    """Lower-case letters, digits, hyphen and underscore."""
    check_collection_name(name)


@pytest.mark.parametrize(
    "name", ["", "A", "-a", "_a", "a b", "a/b", "..", "a.b", "x" * 64, "ä", "a\n", "a\0"]
)
def test_other_names_are_refused(name: str, tmp_path: Path) -> None:
    """They could leave the store, or differ by case alone on some disks."""
    with pytest.raises(ConfigError, match="collection name"):
        Collection(PosixStore(tmp_path), name)


def test_collections_are_listed_by_name(store: Store, make_memories: MakeMemories) -> None:
    """Those with a version; other folders in the store are passed over."""
    store.write(*make_memories(["a#0"] + [f"b#{i}" for i in range(20)]), collection="another")
    store.objects.put("unfinished/shards/x.arrow", b"")
    store.objects.put("empty/versions/.tmp-1", b"")
    store.objects.put("My Backup/versions/00000000000000000001.json", b"")

    assert list_collections(store.objects) == ["another", "default"]


def test_versions_are_numbered_from_one(three: Collection) -> None:
    """Each commit makes the next."""
    assert three.versions() == [1, 2, 3]
    assert three.latest_version() == 3
    assert [three.manifest(number).parent for number in (1, 2, 3)] == [0, 1, 2]


def test_a_collection_without_versions_has_none(tmp_path: Path) -> None:
    """Number 0, no list, and no snapshot."""
    collection = Collection(PosixStore(tmp_path), "default")

    assert collection.latest_version() == 0
    assert collection.versions() == []
    with pytest.raises(CollectionNotFoundError, match="no collection 'default' in"):
        collection.snapshot()


@pytest.mark.parametrize(
    "hint",
    [b"1", b"2", b"3", b"4", b"0", b"-1", b"", b"x", b"\xff\0", b"9" * 19, b"9" * 30, b"3\n", None],
)
def test_the_hint_is_never_trusted(three: Collection, hint: bytes | None) -> None:
    """Old, wrong, damaged or absent: the newest version is found."""
    if hint is None:
        three.store.delete(three.key("versions/LATEST"))
    else:
        three.store.put_hint(three.key("versions/LATEST"), hint)

    assert three.latest_version() == 3
    assert three.snapshot().version == 3


def test_the_hint_may_be_missing_where_it_cannot_be_written(three: Collection) -> None:
    """A commit is made all the same."""
    three.store.delete(three.key("versions/LATEST"))
    _file(three, "versions/LATEST").mkdir()

    three.note_latest(3)

    _file(three, "versions/LATEST").rmdir()
    assert three.latest_version() == 3


def test_an_unknown_version_is_not_found(three: Collection) -> None:
    """The error says which is the newest."""
    for version in (4, -1, 10**30):
        with pytest.raises(SnapshotNotFoundError, match=f"no version {version}; the newest is 3"):
            three.snapshot(version)


def test_a_manifest_in_anothers_place_is_refused(three: Collection) -> None:
    """It is sealed, but not this version's, nor this collection's."""
    first = _file(three, version_key(1)).read_bytes()
    _file(three, version_key(2)).write_bytes(first)
    with pytest.raises(CorruptionError, match="holds version 1 of 'default'"):
        three.manifest(2)

    other = dataclasses.replace(three.manifest(3), collection="other")
    _file(three, version_key(3)).write_bytes(seal(other.to_dict()))
    with pytest.raises(CorruptionError, match="holds version 3 of 'other'"):
        three.manifest(3)


def test_a_snapshot_shares_the_shards_of_an_open_one(
    three: Collection, make_memories: MakeMemories, store: Store
) -> None:
    """A new version opens only what is new."""
    old = three.snapshot()
    store.write(*make_memories(["e#0"]))

    new = three.snapshot()

    assert new.version == 4
    assert new.shards[: len(old.shards)] == old.shards


def test_the_newest_snapshot_is_opened_once(three: Collection) -> None:
    """It is kept until there is a newer one; older ones are opened when asked for."""
    assert three.snapshot() is three.snapshot() is three.snapshot(3)
    assert three.snapshot(1).version == 1
    assert three.snapshot().version == 3


def test_threads_open_the_same_version(three: Collection) -> None:
    """At the same time, without harm."""
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: seen.append(int(three.snapshot().live.sum())))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [12] * 8


def test_a_reader_follows_when_its_version_and_the_next_are_collected(
    three: Collection, store: Store, make_memories: MakeMemories
) -> None:
    """It looks further than for the number after its own."""
    assert three.snapshot().version == 3
    for name in "efg":
        store.write(*make_memories([f"{name}#0"]))
    gc(store.collection("default"), keep_versions=1, grace_s=0, dry_run=False)

    assert three.snapshot().version == 6


@pytest.mark.parametrize(
    ("folder", "call"),
    [
        ("lists", Collection.snapshot),
        ("deletes", Collection.snapshot),
        ("shards", lambda collection: collection.snapshot().embeddings()),
    ],
)
def test_an_object_that_a_version_names_and_that_is_gone_is_damage(
    three: Collection, folder: str, call: Callable[[Collection], object]
) -> None:
    """Not a `NotFoundError`: the user asked for nothing that is not there."""
    for path in _file(three, folder).iterdir():
        path.unlink()

    with pytest.raises(CorruptionError, match=f"{folder}/.* is gone; restore it"):
        call(three)


def test_a_damaged_bitmap_is_refused(three: Collection) -> None:
    """Before it is parsed."""
    (path,) = _file(three, "deletes").iterdir()
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(CorruptionError, match=f"deletes/{path.name}"):
        three.snapshot()


def test_deleted_rows_come_back(three: Collection) -> None:
    """The bitmap is named by its digest; no name is no row."""
    ref = three.manifest(3).shard_lists[0]

    assert three.deleted_rows(ref) == BitMap([0])
    assert three.deleted_rows(dataclasses.replace(ref, deletes="")) == BitMap()
    assert three.put_deletes(BitMap([0])) == ref.deletes


def test_a_codec_is_stored_whole(three: Collection, codec: ProductCodec) -> None:
    """Its files are those that went in."""
    readers = three.open_codec(codec.id)

    assert {name: bytes(reader.read(0, reader.num_bytes)) for name, reader in readers.items()} == {
        name: bytes(data) for name, data in codec.files().items()
    }


@pytest.mark.parametrize("codec_id", ["0" * 64, "x/y", "é"])
def test_an_unknown_codec_is_not_found(three: Collection, codec_id: str) -> None:
    """The error names it."""
    with pytest.raises(CodecNotFoundError, match=f"'default' holds no codec {codec_id[:16]}"):
        three.open_codec(codec_id)


@pytest.mark.parametrize("codec_id", ["", "..", "../../other/codecs/x"])
def test_a_codec_is_looked_for_in_its_place_alone(three: Collection, codec_id: str) -> None:
    """An id that is a path is refused."""
    with pytest.raises(ConfigError, match="object key"):
        three.open_codec(codec_id)


def test_a_codec_without_its_config_is_none(three: Collection, codec: ProductCodec) -> None:
    """The config is written last: without it, the writer never came to the end."""
    _file(three, f"codecs/{codec.id}/config.json").unlink()

    with pytest.raises(CodecNotFoundError, match="holds no codec"):
        three.open_codec(codec.id)


def test_a_dictionary_is_stored_once_and_read_by_digest(three: Collection) -> None:
    """None is stored for an empty one."""
    digest = three.put_dictionary(b"words words words")

    assert three.put_dictionary(b"words words words") == digest
    assert three.dictionary(digest) == b"words words words"
    assert three.put_dictionary(b"") == ""
    assert three.dictionary("") == b""


def test_a_dictionary_that_was_collected_is_stored_again(three: Collection) -> None:
    """A collection that still has it at hand does not take it for stored."""
    digest = three.put_dictionary(b"words words words")
    assert three.dictionary(digest)
    gc(three, grace_s=0, dry_run=False)

    three.put_dictionary(b"words words words")

    assert Collection(three.store, "default").dictionary(digest) == b"words words words"


def test_a_damaged_dictionary_is_refused(three: Collection) -> None:
    """Texts read with another dictionary would be other texts."""
    digest = three.put_dictionary(b"words words words")
    _file(three, f"dicts/{digest}.zstd").write_bytes(b"other words")

    with pytest.raises(CorruptionError, match=f"dicts/{digest}"):
        three.dictionary(digest)
