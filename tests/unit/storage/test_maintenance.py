"""`verify` finds damage; `gc` deletes what nothing names, late and never early."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memstore import ProductCodec, Store
from memstore.errors import CollectionNotFoundError, ConfigError, CorruptionError
from memstore.storage import Collection, PosixStore, gc, seal, verify
from memstore.types import Passage

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]
START = time.time() + 1e5  # after everything that the tests write
HOUR_S = 3600.0


@pytest.fixture
def three(store: Store, make_memories: MakeMemories) -> Collection:
    """Versions 1 to 3: a write, a write with a dictionary, a delete. Opened afresh."""
    target = store.collection("default")
    store.write(*make_memories(["d#0", "d#1"]))
    store.delete(passage_ids=["a#0", "d#1"])
    return Collection(target.store, "default")


def _files(collection: Collection, below: str) -> list[Path]:
    folder = Path(collection.store.location) / collection.name / below
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _names(collection: Collection) -> set[str]:
    return {key.removeprefix("default/") for key in collection.store.list("default/")}


def test_a_whole_collection_has_no_problems(three: Collection) -> None:
    """Every object that the version names is read: manifest, codec, 2 shards, 2 bitmaps."""
    report = verify(three)

    assert (report.version, report.num_objects, report.problems) == (3, 6, ())
    assert report.num_bytes > sum(path.stat().st_size for path in _files(three, "shards"))


def test_an_older_version_is_verified_too(three: Collection) -> None:
    """It names less."""
    assert (verify(three, 1).version, verify(three, 1).num_objects) == (1, 3)


@pytest.mark.parametrize("folder", ["shards", "lists", "deletes", "codecs"])
def test_a_flipped_bit_is_found(three: Collection, folder: str) -> None:
    """In each object, one line a problem; the others are read all the same."""
    for path in _files(three, folder):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 128]))
        (problem,) = verify(Collection(three.store, "default")).problems
        assert path.name in problem
        path.write_bytes(whole)

    assert verify(three).problems == ()


@pytest.mark.parametrize("folder", ["shards", "lists", "deletes", "codecs"])
def test_a_lost_object_is_found(three: Collection, folder: str) -> None:
    """A `NotFoundError` of one object does not end the report."""
    lost = _files(three, folder)
    for path in lost:
        path.unlink()

    problems = verify(Collection(three.store, "default")).problems

    assert len(problems) == (1 if folder == "codecs" else len(lost))


def test_a_dictionary_is_read_from_the_store(
    make_store: Callable[..., Store], make_memories: MakeMemories, codec: ProductCodec
) -> None:
    """Also when it is at hand: what a collection remembers is not what the disk holds."""
    store = make_store()
    passages, memories = make_memories(f"a#{i}" for i in range(300))
    long = [
        Passage(document_id="a", number=i, text=f"{i} " + " ".join(map(str, range(i, i + 900))))
        for i in range(len(passages))
    ]
    store.write(long, memories, codec=codec)
    target = store.collection("default")
    (path,) = _files(target, "dicts")
    assert store.fetch(["a#7"]).passages[0].text == long[7].text
    assert verify(target).problems == ()

    path.write_bytes(path.read_bytes()[:-1])

    (problem,) = verify(target).problems
    assert path.name in problem


def test_a_lost_version_is_found(three: Collection) -> None:
    """Between others by its number, the newest by the hint."""
    for lost in (2, 3):
        key = three.key(f"versions/{lost:020d}.json")
        manifest = three.store.get(key)
        three.store.delete(key)
        (problem,) = verify(Collection(three.store, "default")).problems
        assert f"versions/{lost:020d}.json: the version is gone" in problem
        three.store.put(key, manifest)


def test_a_damaged_manifest_cannot_be_begun_from(three: Collection) -> None:
    """Nothing that it names can be known."""
    (newest,) = _files(three, "versions")[2:3]
    newest.write_bytes(newest.read_bytes()[:-5])

    with pytest.raises(CorruptionError, match=newest.name):
        verify(three)


@pytest.mark.parametrize("call", [verify, gc])
def test_there_must_be_a_collection(tmp_path: Path, call: Callable[[Collection], object]) -> None:
    """Not one version, no care to take."""
    with pytest.raises(CollectionNotFoundError, match="no collection 'default'"):
        call(Collection(PosixStore(tmp_path), "default"))


def test_nothing_is_deleted_in_a_dry_run(three: Collection) -> None:
    """Which is the default: it reports what would go, and marks nothing."""
    before = _names(three)

    report = gc(three, keep_versions=1, grace_s=0)

    assert report.dry_run
    assert report.dropped_versions == (1, 2)
    assert "versions/00000000000000000001.json" in report.deleted
    assert _names(three) == before


def test_what_no_version_names_is_deleted_after_the_grace_period(three: Collection) -> None:
    """It counts from when `gc` first saw it, not from when it was written."""
    before = _names(three)
    three.store.put("default/shards/orphan.arrow", b"x")
    Path(three.store.location, "default/shards/.tmp-0").write_bytes(b"half")

    def run(now: float) -> tuple[tuple[str, ...], int]:
        report = gc(three, grace_s=72 * HOUR_S, dry_run=False, now=START + now)
        return report.deleted, report.num_waiting

    assert run(0.0) == ((), 2)
    assert run(71 * HOUR_S) == ((), 2)
    assert run(72 * HOUR_S) == (("shards/.tmp-0", "shards/orphan.arrow"), 0)
    assert _names(three) == before | {"gc/marks.json"}


def test_old_versions_are_dropped_with_all_that_only_they_name(
    three: Collection, store: Store, make_memories: MakeMemories
) -> None:
    """What the kept ones share with them stays."""
    store.write(*make_memories(["e#0", "e#1"]), mode="replace")

    report = gc(three, keep_versions=1, grace_s=0, dry_run=False)

    assert report.dropped_versions == (1, 2, 3)
    assert three.versions() == [4]
    assert len(_files(three, "shards")) == len(_files(three, "lists")) == 1
    assert _files(three, "deletes") == []
    assert verify(three).problems == ()
    assert len(store.fetch(["e#0", "e#1"]).memories) == 2


def test_kept_versions_stay_whole(three: Collection, store: Store) -> None:
    """With a grace period of nothing, and run again."""
    for _ in range(2):
        report = gc(three, keep_versions=2, grace_s=0, dry_run=False)

    assert report.deleted == ()
    assert three.versions() == [2, 3]
    assert [verify(three, version).problems for version in (2, 3)] == [(), ()]
    assert store.fetch(["d#1"], version=2).passages[0].passage_id == "d#1"


def test_an_object_that_is_named_again_is_unmarked(
    three: Collection, store: Store, make_memories: MakeMemories
) -> None:
    """Its grace period begins anew when it is unnamed again."""
    passages, memories = make_memories(["e#0"])
    codec = ProductCodec(np.ones((4, 16, 4), dtype=np.float32))
    three.put_codec(codec.id, dict(codec.files()))
    gc(three, grace_s=10, dry_run=False, now=START + 0)
    store.write(passages, memories, mode="replace", codec=codec)

    report = gc(three, grace_s=10, dry_run=False, now=START + 100)

    assert report.deleted == ()
    assert verify(three).problems == ()


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff"])
def test_damaged_marks_delay_and_never_hurry(three: Collection, damage: bytes) -> None:
    """The grace period begins anew."""
    three.store.put("default/shards/orphan.arrow", b"x")
    gc(three, grace_s=10, dry_run=False, now=START + 0)
    three.store.put_hint("default/gc/marks.json", damage)

    assert gc(three, grace_s=10, dry_run=False, now=START + 100).deleted == ()
    assert gc(three, grace_s=10, dry_run=False, now=START + 110).deleted == ("shards/orphan.arrow",)


def test_jobs_and_hints_are_not_collected(three: Collection) -> None:
    """A job's records say what need not be done again."""
    three.store.put("default/jobs/1/receipts/0.json", b"x")

    assert gc(three, grace_s=0, dry_run=False).deleted == ()
    assert {"jobs/1/receipts/0.json", "versions/LATEST"} <= _names(three)


def test_an_index_goes_with_its_version(three: Collection) -> None:
    """One that a kept version points to stays; a damaged pointer names nothing."""
    three.store.put("default/index/00000000000000000001.json", b"{}")
    three.store.put("default/index/0123.faiss", b"x")

    report = gc(three, grace_s=0, dry_run=False)

    assert report.deleted == ("index/00000000000000000001.json", "index/0123.faiss")


def test_an_index_stays_while_a_kept_version_has_its_rows_in_front(three: Collection) -> None:
    """Whichever version it was built for."""
    lists = [ref.digest for ref in three.manifest(3).shard_lists]
    pointer = "default/index/00000000000000000002.json"
    three.store.put(pointer, seal({"digest": "0123", "lists": lists[:1]}))
    three.store.put("default/index/0123.faiss", b"x")

    gc(three, keep_versions=1, grace_s=0, dry_run=False)

    assert three.store.exists(pointer)
    assert three.store.exists("default/index/0123.faiss")


def test_what_a_writer_has_renewed_is_left_alone(three: Collection) -> None:
    """It was marked long ago, but somebody is about to publish it."""
    now = time.time()
    three.store.put("default/shards/orphan.arrow", b"x")
    path = Path(three.store.location, "default/shards/orphan.arrow")
    os.utime(path, (now - 200, now - 200))
    gc(three, grace_s=100, dry_run=False, now=now - 150)

    three.store.put("default/shards/orphan.arrow", b"x")

    assert gc(three, grace_s=100, dry_run=False, now=now + 1).deleted == ()
    assert gc(three, grace_s=100, dry_run=False, now=now + 200).deleted


@pytest.mark.parametrize("folder", ["versions", "lists"])
def test_nothing_is_deleted_when_a_kept_version_cannot_be_read(
    three: Collection, folder: str
) -> None:
    """What it names is not known."""
    three.store.put("default/shards/orphan.arrow", b"x")
    path = _files(three, folder)[0]
    path.write_bytes(path.read_bytes()[:-3])
    before = _names(three)

    with pytest.raises(CorruptionError):
        gc(three, grace_s=0, dry_run=False)
    assert _names(three) == before


@pytest.mark.parametrize(("keep_versions", "grace_s"), [(0, 0), (-1, 0), (1, -1)])
def test_a_bad_request_is_refused(three: Collection, keep_versions: int, grace_s: float) -> None:
    """One version at least is kept."""
    with pytest.raises(ConfigError, match=r"keep_versions .* and grace_s"):
        gc(three, keep_versions=keep_versions, grace_s=grace_s)
