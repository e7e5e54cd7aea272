"""The versions of sessions in an object store: which is newest, and the commit of the next.

A version is one object under the session's name; the create-only `put` of version n + 1 is the
commit. Versions that the newest is not made of are then deleted. That frees their names, so a
writer that slept through several commits can create a version that is none: after its `put` each
writer looks whether the newest version descends from its own.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping

from memstore.errors import (
    CommitConflictError,
    CommitUnknownError,
    ConfigError,
    MemstoreError,
    NotFoundError,
    SessionNotFoundError,
    StorageError,
    StorageFullError,
)
from memstore.sessions.record import Header, Record, pack
from memstore.storage import ObjectStore

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_FILE = re.compile(r"(\d{20})\.session")
_READS = 10  # a reader that meets so many commits in a row gives up


def check_session_id(session_id: str) -> None:
    """Raise `ConfigError` unless the name is safe as an object key."""
    if not _NAME.fullmatch(session_id):
        raise ConfigError(
            f"session id {session_id!r}: wanted 1 to 63 of a-z, 0-9, '_' and '-', beginning with a "
            "letter or digit",
            session=session_id,
        )


class Versions:
    """The sessions of an object store, as versions. Safe to use from many threads.

    Args:
        objects: where they are; each folder at its top is a session.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def session_ids(self) -> list[str]:
        """Return the names that sessions have, or had, sorted."""
        return [name for name in self._objects.folders() if _NAME.fullmatch(name)]

    def newest(self, session_id: str) -> int:
        """Return the number of the newest version; 0 if there is none."""
        return max(self._listed(session_id), default=0)

    def open(self, session_id: str, version: int) -> Record:
        """Open a version.

        Raises:
            NotFoundError: if it is not there.
            CorruptionError, FormatVersionError: see `Record`.
        """
        key = _key(session_id, version)
        return Record(self._objects.open(key), key, session_id, version)

    def open_newest(self, session_id: str) -> Record:
        """Open the newest version.

        Raises:
            SessionNotFoundError: if there is none.
            CorruptionError, FormatVersionError: see `Record`.
        """
        for _ in range(_READS):
            version = self.newest(session_id)
            if not version:
                break
            # Between the look and the opening another may have committed, and deleted this one.
            with contextlib.suppress(NotFoundError):
                return self.open(session_id, version)
        raise SessionNotFoundError(f"session {session_id!r}: there is none", session=session_id)

    def commit(self, header: Header, blobs: Mapping[str, bytes]) -> int:
        """Create a version, on the one before it.

        Returns:
            Bytes of the object.

        Raises:
            CommitConflictError: if another writer was faster.
            CommitUnknownError: if the answer was lost and nothing tells whether it was.
            StorageFullError, StorageError: if it cannot be written; nothing is committed.
        """
        key = _key(header.session_id, header.version)
        data = pack(header, blobs)
        failure: MemstoreError | None = None
        is_created = False
        try:
            is_created = self._objects.put(key, data)
        except (StorageError, StorageFullError) as err:
            failure = err
        listed = self._listed_after(header, failure)
        if not is_created or max(listed, default=0) != header.version:
            self._settle(header, failure, max(listed, default=0))
        self._prune(header, listed)
        return len(data)

    def sweep(self, session_id: str, before: float) -> None:
        """Delete what writers that died have left unfinished.

        Args:
            session_id: whose.
            before: seconds since the epoch; what is younger may be somebody's at work.
        """
        prefix = f"{session_id}/"
        for key in list(self._objects.list(prefix)):
            with contextlib.suppress(NotFoundError):
                if (
                    not _FILE.fullmatch(key.removeprefix(prefix))
                    and self._objects.modified_at(key) < before
                ):
                    self._objects.delete(key)

    def forget(self, header: Header) -> None:
        """Delete the version that ended a session; one that was begun since is not touched."""
        self._objects.delete(_key(header.session_id, header.version))

    def erase(self, session_id: str) -> None:
        """Delete all versions; the newest last, so that an older one is never the newest."""
        for version in sorted(self._listed(session_id)):
            self._objects.delete(_key(session_id, version))

    def _listed(self, session_id: str) -> list[int]:
        prefix = f"{session_id}/"
        names = (key.removeprefix(prefix) for key in self._objects.list(prefix))
        return [int(match[1]) for name in names if (match := _FILE.fullmatch(name))]

    def _listed_after(self, header: Header, failure: MemstoreError | None) -> list[int]:
        try:
            return self._listed(header.session_id)
        except StorageError as err:
            raise failure or _unknown(header, f"the session cannot be listed ({err})") from err

    def _settle(self, header: Header, failure: MemstoreError | None, newest: int) -> None:
        """Return if the version is ours and counts; else raise."""
        if newest < header.version:
            raise failure or _conflict(header)
        try:
            record = self.open(header.session_id, newest)
        except MemstoreError as err:
            raise _unknown(header, f"version {newest} cannot be read ({err})") from err
        line = (record.header.commit_id, *record.header.ancestors)
        num_since = newest - header.version
        if num_since >= len(line):
            raise _unknown(header, f"{num_since} versions have been made since")
        if line[num_since] != header.commit_id:
            raise _conflict(header)
        # The answer was lost, or others went on from it: ours, but perhaps not yet durable.
        if not num_since:
            self._objects.renew(_key(header.session_id, header.version))

    def _prune(self, header: Header, listed: list[int]) -> None:
        """Delete what the version is not made of; what fails is done by the next commit."""
        kept = {header.version, *(piece.version for piece in header.pieces)}
        for version in listed:
            if version < header.version and version not in kept:
                try:
                    self._objects.delete(_key(header.session_id, version))
                except MemstoreError:
                    _log.warning("session %s: version %d stays", header.session_id, version)
                    return


def _key(session_id: str, version: int) -> str:
    return f"{session_id}/{version:020d}.session"


def _conflict(header: Header) -> CommitConflictError:
    return CommitConflictError(
        f"session {header.session_id!r}: another writer made version {header.version}; read it and "
        "try again",
        session=header.session_id,
        version=header.version,
    )


def _unknown(header: Header, why: str) -> CommitUnknownError:
    return CommitUnknownError(
        f"session {header.session_id!r}: whether version {header.version} was committed is not "
        f"known: {why}; see what the session holds before trying again",
        session=header.session_id,
        version=header.version,
        commit_id=header.commit_id,
    )
