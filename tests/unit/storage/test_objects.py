"""What the POSIX store alone promises: the order of its system calls, errors when they fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memstore.errors import CorruptionError, StorageError, StorageFullError
from memstore.storage import PosixStore
from memstore.storage.objects import storage_error


@pytest.fixture
def objects(tmp_path: Path) -> PosixStore:
    """An empty store in a folder that does not exist yet."""
    return PosixStore(tmp_path / "root")


def _failing(code: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_the_location_is_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store opened by a relative path stays where it was when the process moves on."""
    monkeypatch.chdir(tmp_path)

    assert PosixStore("somewhere").location == str(tmp_path / "somewhere")


def test_bytes_are_durable_before_they_have_a_name(
    objects: PosixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synced before it is linked, and its folder after that."""
    objects.put("folder/first", b"")
    events: list[str] = []
    sync, link = os.fsync, os.link

    def record_sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        events.append("sync folder" if path.is_dir() else "sync file")
        sync(descriptor)

    def record_link(source: Path, target: Path) -> None:
        events.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "link", record_link)
    objects.put("folder/second", b"x")

    assert events == ["sync file", "link", "sync folder"]


def test_a_put_leaves_no_temp_file(objects: PosixStore) -> None:
    """Neither a put that wins nor one that finds the name taken leaves anything beside."""
    objects.put("folder/a", b"x")
    objects.put("folder/a", b"y")

    assert list(objects.list("")) == ["folder/a"]


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_put_that_fails_leaves_nothing(
    objects: PosixStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """No name, no temp file, and an error that may be retried."""
    objects.put("folder/a", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, _failing(errno.EIO))
        with pytest.raises(StorageError, match=r"writing .*folder/b failed: Input/output error"):
            objects.put("folder/b", b"x")

    assert list(objects.list("")) == ["folder/a"]


def test_a_hint_that_fails_leaves_the_old_one(
    objects: PosixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint is replaced whole or not at all."""
    objects.put_hint("hint", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _failing(errno.EIO))
        with pytest.raises(StorageError, match="hint"):
            objects.put_hint("hint", b"new")

    assert objects.get("hint") == b"old"
    assert list(objects.list("")) == ["hint"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_is_an_error_of_its_own(code: int) -> None:
    """A full disk, a used-up quota and a limit on the size of files want space, not a retry."""
    error = storage_error(OSError(code, "x"), "writing", "a/b")

    assert isinstance(error, StorageFullError)
    assert not error.retryable
    assert "a/b" in str(error)
    assert "free space" in str(error)


def test_another_failure_may_be_retried() -> None:
    """What is not about space is a `StorageError` that says what was done, where, and why."""
    error = storage_error(OSError(errno.EIO, "x"), "reading", "a/b")

    assert isinstance(error, StorageError)
    assert error.retryable
    assert str(error) == "reading a/b failed: Input/output error"


def test_a_failure_without_a_number_is_described() -> None:
    """An `OSError` that carries only words keeps them."""
    assert "because" in str(storage_error(OSError("because"), "reading", "a"))


@pytest.mark.parametrize("call", ["get", "open"])
def test_a_folder_in_an_objects_place_is_a_storage_error(objects: PosixStore, call: str) -> None:
    """Reading a folder fails with a typed error."""
    objects.put("folder/a", b"x")

    with pytest.raises(StorageError, match="folder"):
        getattr(objects, call)("folder")
    assert not objects.exists("folder")


def test_deleting_a_folder_is_a_storage_error(objects: PosixStore) -> None:
    """Objects are deleted one by one, never a folder of them."""
    objects.put("folder/a", b"x")

    with pytest.raises(StorageError, match="deleting folder failed"):
        objects.delete("folder")


def test_a_put_below_an_object_is_a_storage_error(objects: PosixStore) -> None:
    """A name below a file cannot be made."""
    objects.put("a", b"x")

    with pytest.raises(StorageError, match="writing"):
        objects.put("a/b", b"x")


def test_a_name_that_is_too_long_is_a_storage_error(objects: PosixStore) -> None:
    """What the file system refuses comes back typed."""
    objects.put("a", b"x")

    with pytest.raises(StorageError, match="File name too long"):
        objects.modified_at("x" * 300)


def test_a_file_cut_short_after_opening_is_refused(objects: PosixStore) -> None:
    """Touching a page that is no longer behind the mapping would end the process."""
    objects.put("a", bytes(20_000))
    reader = objects.open("a")
    os.truncate(Path(objects.location) / "a", 100)

    assert bytes(reader.read(0, 100)) == bytes(100)
    with pytest.raises(CorruptionError, match="cut short"):
        reader.read(0, 20_000)


def test_an_object_deleted_after_opening_is_still_read(objects: PosixStore) -> None:
    """A reader keeps what it has opened while `gc` removes the name."""
    objects.put("a", b"x" * 10_000)
    reader = objects.open("a")
    objects.delete("a")

    assert bytes(reader.read(0, 10_000)) == b"x" * 10_000


def test_unfinished_temp_files_are_listed(objects: PosixStore) -> None:
    """What a killed writer left is seen by `gc`."""
    objects.put("folder/a", b"x")
    (Path(objects.location) / "folder" / ".tmp-0").write_bytes(b"half")

    assert sorted(objects.list("folder/")) == ["folder/.tmp-0", "folder/a"]
