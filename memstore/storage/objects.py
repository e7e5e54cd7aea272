"""Where bytes live: one small protocol, and its POSIX implementation.

Everything that the store writes is written once under a name of its own; the only object ever
overwritten is a hint that nobody trusts. A commit is the create-only `put` of one small object, so
`put` decides who wins.

Does not: know what the bytes mean. Object stores (S3, GCS, Azure) come in behind the same protocol.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from memstore.errors import (
    ConfigError,
    CorruptionError,
    MemstoreError,
    NotFoundError,
    PermissionDeniedError,
    StorageError,
    StorageFullError,
)

Buffer = bytes | memoryview

_TEMP_PREFIX = ".tmp-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TOO_MANY = {errno.EMFILE, errno.ENFILE}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class ObjectReader(Protocol):
    """One immutable object opened for random access."""

    @property
    def num_bytes(self) -> int:
        """Length of the object."""
        ...

    def read(self, start: int, length: int) -> memoryview:
        """Return exactly these bytes, without a copy where the medium allows it."""
        ...


class ObjectStore(Protocol):
    """Named immutable byte strings."""

    @property
    def location(self) -> str:
        """The path or URL that a user would recognize."""
        ...

    def put(self, key: str, data: Buffer) -> bool:
        """Create the object durably; False if the name is taken: then `renew` it instead."""
        ...

    def renew(self, key: str) -> bool:
        """Make an object as durable and as young as if it were written now; False if it is gone.

        A `gc` that is under way leaves young objects alone.
        """
        ...

    def put_hint(self, key: str, data: bytes) -> None:
        """Overwrite a small object atomically, not durably: for hints that nobody trusts."""
        ...

    def get(self, key: str) -> bytes:
        """Return a whole object; `NotFoundError` if there is none."""
        ...

    def open(self, key: str) -> ObjectReader:
        """Open an object for random access; `NotFoundError` if there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Say whether the object is there."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a folder (`prefix` ends with `/`), in no order."""
        ...

    def folders(self) -> Sequence[str]:
        """Return the names of the folders at the top, sorted."""
        ...

    def modified_at(self, key: str) -> float:
        """Seconds since the epoch at which the object was written, by the store's own clock."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens if there is none."""
        ...


def storage_error(err: OSError, doing: str, where: str) -> MemstoreError:
    """Name a failed system call: what was done, where, and whether trying again may help."""
    reason = os.strerror(err.errno) if err.errno else str(err)
    if err.errno in _FULL:
        return StorageFullError(
            f"no space left while {doing} {where} ({reason}); nothing was committed: free space "
            "and run it again",
            object=where,
        )
    if err.errno in _TOO_MANY:
        reason = f"{reason}; raise the limit (ulimit -n) or write larger shards"
    if err.errno in _REFUSED:
        return PermissionDeniedError(
            f"{doing} {where}: {reason}; let this user write there, or mount the store writable",
            object=where,
        )
    return StorageError(f"{doing} {where} failed: {reason}", object=where)


class _MappedObject:
    """A read-only mapping of a file. The file's size is looked at before each read: touching a page
    that is no longer behind the mapping would end the process.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        with path.open("rb") as file:
            self._num_bytes = os.fstat(file.fileno()).st_size
            self._view = memoryview(
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._num_bytes else b""
            )

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def read(self, start: int, length: int) -> memoryview:
        end = start + length
        size = self._num_bytes
        # A file that was unlinked after opening is still held by the mapping.
        with contextlib.suppress(FileNotFoundError):
            size = min(size, self._path.stat().st_size)
        if start < 0 or length < 0 or end > size:
            raise CorruptionError(
                f"{self._key}: bytes {start}..{end} asked for, the file has {size}; it was cut "
                "short: restore it",
                object=self._key,
            )
        return self._view[start:end]


class PosixStore:
    """A folder on a local or network file system with `link` and `fsync`.

    Source: the write order (temp file, fsync, link, fsync of the folder) is the one that survives
        power cuts.
    """

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root).absolute()

    @property
    def location(self) -> str:
        """The root folder."""
        return str(self._root)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in {"", ".", ".."} or "\0" in part for part in parts) or not _encodes(key):
            raise ConfigError(f"object key {key!r} is not a plain relative path")
        return self._root.joinpath(*parts)

    def put(self, key: str, data: Buffer) -> bool:
        """See `ObjectStore.put`: temp file → fsync → link → fsync of the folder."""
        path = self._path(key)
        try:
            while not self.renew(key):
                self._make_folder(path.parent)
                with contextlib.suppress(FileNotFoundError):  # it was empty, and deleted just now
                    if _create(path, data):
                        return True
        except OSError as err:
            raise storage_error(err, "writing", str(path)) from err
        return False

    def renew(self, key: str) -> bool:
        """See `ObjectStore.renew`; whoever created the name may have died before syncing it."""
        path = self._path(key)
        try:
            os.utime(path)
            _sync_folder(path.parent)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as err:
            raise storage_error(err, "renewing", str(path)) from err
        return True

    def put_hint(self, key: str, data: bytes) -> None:
        """See `ObjectStore.put_hint`."""
        path = self._path(key)
        temp = path.parent / f"{_TEMP_PREFIX}{uuid.uuid4().hex}"
        try:
            self._make_folder(path.parent)
            temp.write_bytes(data)
            temp.replace(path)
        except OSError as err:
            temp.unlink(missing_ok=True)
            raise storage_error(err, "writing", str(path)) from err

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"{key}: no such object in {self.location}", object=key) from None
        except OSError as err:
            raise storage_error(err, "reading", key) from err

    def open(self, key: str) -> ObjectReader:
        """See `ObjectStore.open`; reads are slices of one memory mapping."""
        try:
            return _MappedObject(self._path(key), key)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"{key}: no such object in {self.location}", object=key) from None
        except OSError as err:
            raise storage_error(err, "opening", key) from err

    def exists(self, key: str) -> bool:
        """See `ObjectStore.exists`."""
        path = self._path(key)
        try:
            return path.is_file()
        except OSError as err:
            raise storage_error(err, "looking for", str(path)) from err

    def list(self, prefix: str) -> Iterator[str]:
        """See `ObjectStore.list`; unfinished temp files are listed too, so that `gc` sees them."""
        folder = self._path(prefix.removesuffix("/")) if prefix else self._root
        try:
            for path in folder.rglob("*"):
                if path.is_file():
                    yield path.relative_to(self._root).as_posix()
        except OSError as err:
            raise storage_error(err, "listing", str(folder)) from err

    def folders(self) -> Sequence[str]:
        """See `ObjectStore.folders`."""
        try:
            return sorted(path.name for path in self._root.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []
        except OSError as err:
            raise storage_error(err, "listing", self.location) from err

    def modified_at(self, key: str) -> float:
        """See `ObjectStore.modified_at`."""
        try:
            return self._path(key).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"{key}: no such object in {self.location}", object=key) from None
        except OSError as err:
            raise storage_error(err, "looking at", key) from err

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`; a folder goes with its last object."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except OSError as err:
            raise storage_error(err, "deleting", key) from err
        if path.parent != self._root:
            with contextlib.suppress(OSError):  # something is in it
                path.parent.rmdir()

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for child in reversed(missing):
            with contextlib.suppress(FileExistsError):
                child.mkdir()
            _sync_folder(child.parent)


def _encodes(key: str) -> bool:
    try:
        os.fsencode(key)
    except UnicodeEncodeError:
        return False
    return True


def _create(path: Path, data: Buffer) -> bool:
    """Give complete, durable bytes a name; False if somebody else has just done so."""
    temp = path.parent / f"{_TEMP_PREFIX}{uuid.uuid4().hex}"
    try:
        _write_synced(temp, data)
        try:
            os.link(temp, path)
        except FileExistsError:
            return False
    finally:
        temp.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def _write_synced(path: Path, data: Buffer) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
