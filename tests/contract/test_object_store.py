"""What every `ObjectStore` promises, run over each implementation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memstore.errors import ConfigError, CorruptionError, NotFoundError
from memstore.storage import ObjectStore, PosixStore

IMPLEMENTATIONS: dict[str, Callable[[Path], ObjectStore]] = {"posix": PosixStore}

BAD_KEYS = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../outside",
    "a/../b",
    "a/..",
    "a/../../outside",
    ".",
    "./a",
    "a/.",
    "a//b",
    "a/",
    "a\0b",
    "\0",
    "a/\0/b",
    "\ud800",
]
CALLS: dict[str, Callable[[ObjectStore, str], object]] = {
    "put": lambda store, key: store.put(key, b"x"),
    "put_hint": lambda store, key: store.put_hint(key, b"x"),
    "get": lambda store, key: store.get(key),
    "open": lambda store, key: store.open(key),
    "exists": lambda store, key: store.exists(key),
    "list": lambda store, key: list(store.list(f"{key}/")),
    "modified_at": lambda store, key: store.modified_at(key),
    "delete": lambda store, key: store.delete(key),
}


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store of each implementation."""
    return IMPLEMENTATIONS[request.param](tmp_path / "root")


def test_a_put_object_is_read_back(objects: ObjectStore) -> None:
    """What was put is there, whole, under its name."""
    assert objects.put("a/b/c.bin", b"some bytes")

    assert objects.exists("a/b/c.bin")
    assert objects.get("a/b/c.bin") == b"some bytes"


def test_a_second_put_changes_nothing(objects: ObjectStore) -> None:
    """A name that is taken is refused with False, and the first bytes stay."""
    assert objects.put("a", b"first")

    assert not objects.put("a", b"second")
    assert objects.get("a") == b"first"


def test_put_takes_a_memoryview(objects: ObjectStore) -> None:
    """A codebook is stored without being copied to bytes first."""
    assert objects.put("a", memoryview(bytearray(b"view")))

    assert objects.get("a") == b"view"


def test_racing_puts_have_one_winner(objects: ObjectStore) -> None:
    """Of 16 writers of one name at once exactly one is told True, and its bytes are there."""
    barrier = threading.Barrier(16)

    def race(key: str, writer: int) -> bool:
        barrier.wait()
        return objects.put(key, b"%d" % writer)

    with ThreadPoolExecutor(16) as pool:
        for number in range(4):
            key = f"folder-{number}/versions/1.json"
            won = list(pool.map(race, [key] * 16, range(16)))

            assert won.count(True) == 1
            assert objects.get(key) == b"%d" % won.index(True)


def test_an_object_is_opened_for_slices(objects: ObjectStore) -> None:
    """Reads give exactly the bytes asked for, read-only."""
    objects.put("a", b"0123456789")

    reader = objects.open("a")

    assert reader.num_bytes == 10
    assert bytes(reader.read(2, 3)) == b"234"
    assert bytes(reader.read(0, 10)) == b"0123456789"
    assert bytes(reader.read(10, 0)) == b""
    assert reader.read(0, 10).readonly


@pytest.mark.parametrize(("start", "length"), [(8, 3), (11, 1), (-1, 2), (3, -1), (0, 1 << 62)])
def test_a_slice_beyond_the_object_is_refused(
    objects: ObjectStore, start: int, length: int
) -> None:
    """A reader that trusts a wrong length gets an error, never other bytes."""
    objects.put("a", b"0123456789")

    with pytest.raises(CorruptionError, match="a: bytes"):
        objects.open("a").read(start, length)


def test_an_empty_object_is_an_object(objects: ObjectStore) -> None:
    """No bytes can be stored and read like any others."""
    objects.put("a", b"")

    assert objects.get("a") == b""
    assert objects.open("a").num_bytes == 0
    assert not objects.put("a", b"x")


@pytest.mark.parametrize("call", ["get", "open", "modified_at"])
@pytest.mark.parametrize("key", ["nothing", "folder/nothing", "file/below"])
def test_an_absent_object_is_not_found(objects: ObjectStore, call: str, key: str) -> None:
    """Reading what is not there is a `NotFoundError`, below an object too."""
    objects.put("file", b"x")

    with pytest.raises(NotFoundError, match=key):
        CALLS[call](objects, key)


def test_list_yields_the_keys_below_a_folder(objects: ObjectStore) -> None:
    """Nested keys are listed; neighbours whose names only begin alike are not."""
    for key in ("a/1", "a/b/2", "ab/3", "c"):
        objects.put(key, b"")

    assert sorted(objects.list("a/")) == ["a/1", "a/b/2"]
    assert sorted(objects.list("")) == ["a/1", "a/b/2", "ab/3", "c"]
    assert list(objects.list("nothing/")) == []


def test_a_deleted_object_is_gone(objects: ObjectStore) -> None:
    """Its name is free again; deleting what is not there is no error."""
    objects.put("a/b", b"first")

    objects.delete("a/b")
    objects.delete("a/b")
    objects.delete("never/was")

    assert not objects.exists("a/b")
    assert objects.put("a/b", b"second")


def test_objects_have_a_time(objects: ObjectStore) -> None:
    """An object written later is not older."""
    objects.put("a", b"")
    objects.put("b", b"")

    assert 0 < objects.modified_at("a") <= objects.modified_at("b")


def test_a_hint_is_overwritten_whole(objects: ObjectStore) -> None:
    """A reader beside a writer sees one of the hints, never a mixture nor nothing."""
    hints = [b"1" * 10, b"2" * 5_000]
    objects.put_hint("versions/LATEST", hints[0])

    def write() -> None:
        for number in range(200):
            objects.put_hint("versions/LATEST", hints[number % 2])

    writer = threading.Thread(target=write)
    writer.start()
    seen = {objects.get("versions/LATEST")}
    while writer.is_alive():
        seen.add(objects.get("versions/LATEST"))
    writer.join()

    assert seen <= set(hints)
    assert list(objects.list("")) == ["versions/LATEST"]


@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
def test_a_key_that_could_leave_the_store_is_refused(
    objects: ObjectStore, tmp_path: Path, call: str, key: str
) -> None:
    """Every call refuses it before anything is touched."""
    (tmp_path / "outside").write_bytes(b"secret")

    with pytest.raises(ConfigError, match="object key"):
        CALLS[call](objects, key)

    assert (tmp_path / "outside").read_bytes() == b"secret"
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
