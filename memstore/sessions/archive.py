"""Sessions on disk and at hand: opening the newest version, writing the next.

Does not: run a model; a session's memory is bytes here.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from memstore.errors import (
    AlreadyExistsError,
    CodecMismatchError,
    CommitConflictError,
    CorruptionError,
    FormatVersionError,
    ModelMismatchError,
    NotFoundError,
    SessionNotFoundError,
)
from memstore.sessions.cache import Cache
from memstore.sessions.content import Content, from_records, plan_pieces, to_blobs
from memstore.sessions.opened import Opened
from memstore.sessions.record import Header, Piece, Record, descend, format_time, parse_time
from memstore.sessions.versions import Versions, check_session_id

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Make:
    """What made the memory of all sessions of a store, and its shape.

    Attributes:
        model_id, codec_id: see `SessionInfo`.
        window: W, tokens.
        queue_windows: Q, windows that the queue holds.
        num_long_tokens: L, entries of a window.
        row_bytes: of an entry.
    """

    model_id: str
    codec_id: str
    window: int
    queue_windows: int
    num_long_tokens: int
    row_bytes: int


class Archive:
    """The sessions of a store. Safe to use from many threads, one change to a session at a time.

    Args:
        versions: where they are.
        make: what made them.
        cache: keeps some at hand.
        clock: seconds since the epoch.
    """

    def __init__(
        self, versions: Versions, make: Make, cache: Cache, clock: Callable[[], float]
    ) -> None:
        self._versions, self._make, self._cache, self._clock = versions, make, cache, clock

    def find(self, session_id: str) -> Record:
        """Open the newest version of a session that is there and whose time has not run out.

        Raises:
            SessionNotFoundError: if there is none, or no longer.
            ConfigError: if the name is none.
        """
        check_session_id(session_id)
        record = self._versions.open_newest(session_id)
        header = record.header
        fate = ""
        if header.is_removed:
            fate = f"it was removed at {header.updated_at}"
        elif header.is_expired(self._clock()):
            fate = f"it expired at {header.expires_at}"
        if fate:
            raise SessionNotFoundError(f"session {session_id!r}: {fate}", session=session_id)
        return record

    def headers(self, after: str = "") -> Iterator[tuple[Header, int]]:
        """Yield the newest header of each session, whatever has become of it, and its bytes.

        One that is damaged is logged and left out: it must not hide the others.
        """
        for session_id in self._versions.session_ids():
            if session_id <= after:
                continue
            try:
                record = self._versions.open_newest(session_id)
            except SessionNotFoundError:
                continue
            except (CorruptionError, FormatVersionError) as err:
                _log.error("session %s is left out: %s", session_id, err)
                continue
            yield record.header, record.num_bytes

    def open(self, session_id: str, expected_version: int | None = None) -> Opened:
        """Return a session with its memory, from RAM or from disk.

        Raises:
            SessionNotFoundError: if there is none, or no longer.
            CommitConflictError: if it is not at the version that is expected.
            ModelMismatchError, CodecMismatchError: if another made it.
            CorruptionError: if a part of it is missing.
        """
        failed = ""
        while True:
            record = self.find(session_id)
            _check_version(record.header, expected_version)
            self._check_make(record.header)
            opened = self._cache.get(record.header)
            if opened is not None:
                return opened
            try:
                opened = Opened(record.header, record.num_bytes, self._load(record))
            except NotFoundError as err:
                if record.header.commit_id == failed:
                    raise CorruptionError(
                        f"session {session_id!r}: {err}; restore it from a copy, or remove the "
                        "session",
                        session=session_id,
                    ) from err
                # Perhaps another process went on meanwhile, and deleted what it was made of.
                failed = record.header.commit_id
                continue
            self._cache.put(opened)
            return opened

    def begin(
        self, session_id: str, content: Content, ttl_s: float | None, forked_from: str
    ) -> Opened:
        """Commit the first version of a session, whose memory may be a copy.

        Raises:
            AlreadyExistsError: if there is one of this name.
            ConfigError: if the name is none.
        """
        check_session_id(session_id)
        before = self._ended(session_id)
        now = format_time(self._clock())
        header = Header(
            session_id=session_id,
            version=before.version + 1 if before else 1,
            commit_id=_commit_id(),
            ancestors=descend(before) if before else (),
            created_at=now,
            updated_at=now,
            ttl_s=ttl_s,
            forked_from=forked_from,
            model_id=self._make.model_id,
            codec_id=self._make.codec_id,
            num_own_windows=len(content.windows),
            **self._counts(content),
        )
        try:
            return self._write(header, content)
        except CommitConflictError as err:
            raise _already_there(session_id) from err

    def commit(self, base: Opened, content: Content) -> Opened:
        """Commit the version after `base`.

        Raises:
            CommitConflictError, CommitUnknownError, StorageFullError, StorageError: see
                `Versions.commit`.
        """
        before = base.header
        pieces = before.pieces
        if before.num_own_windows:
            own = Piece(
                version=before.version,
                commit_id=before.commit_id,
                num_windows=before.num_own_windows,
                num_bytes=base.num_bytes,
            )
            pieces = (*pieces, own)
        num_new = content.num_windows_read - before.num_windows_read
        pieces, num_own = plan_pieces(pieces, num_new, content)
        header = replace(
            before,
            version=before.version + 1,
            commit_id=_commit_id(),
            ancestors=descend(before),
            updated_at=format_time(self._clock()),
            pieces=pieces,
            num_own_windows=num_own,
            **self._counts(content),
        )
        return self._write(header, content)

    def bury(self, before: Header) -> None:
        """Commit the version that ends a session: a writer that comes late meets it.

        Raises:
            CommitConflictError, CommitUnknownError, StorageFullError, StorageError: see
                `Versions.commit`.
        """
        end = Header(
            session_id=before.session_id,
            version=before.version + 1,
            commit_id=_commit_id(),
            ancestors=descend(before),
            created_at=before.created_at,
            updated_at=format_time(self._clock()),
            is_removed=True,
            model_id=before.model_id,
            codec_id=before.codec_id,
        )
        self._versions.commit(end, {})
        self._cache.drop(before.session_id)

    def erase(self, session_id: str) -> None:
        """Delete a session that cannot be read: nobody can be writing it."""
        self._versions.erase(session_id)
        self._cache.drop(session_id)

    def clean(self, header: Header, before: float) -> None:
        """Delete what has been of no use since before a time, in seconds since the epoch: what
        writers left unfinished, and the end of a session.
        """
        self._versions.sweep(header.session_id, before)
        if header.is_removed and parse_time(header.updated_at) <= before:
            self._versions.forget(header)

    def _ended(self, session_id: str) -> Header | None:
        """Return the end of an earlier session of this name; refuse one that has not ended."""
        try:
            header = self._versions.open_newest(session_id).header
        except SessionNotFoundError:
            return None
        if not header.is_removed and not header.is_expired(self._clock()):
            raise _already_there(session_id)
        return header

    def _counts(self, content: Content) -> dict[str, Any]:
        return {
            "num_tokens": content.num_windows_read * self._make.window + len(content.tail),
            "num_windows_read": content.num_windows_read,
            "num_windows": len(content.windows),
        }

    def _write(self, header: Header, content: Content) -> Opened:
        num_bytes = self._versions.commit(header, to_blobs(content, header.num_own_windows))
        opened = Opened(header, num_bytes, content)
        self._cache.put(opened)
        return opened

    def _load(self, record: Record) -> Content:
        """Read a memory.

        Raises:
            NotFoundError: if a piece is gone.
            CorruptionError: if bytes are not those that were written.
        """
        records = []
        for piece in record.header.pieces:
            found = self._versions.open(record.header.session_id, piece.version)
            if found.header.commit_id != piece.commit_id:
                raise NotFoundError(f"version {piece.version} is not the one that it is made of")
            records.append(found)
        return from_records(
            [*records, record],
            queue_windows=self._make.queue_windows,
            window_rows=(self._make.num_long_tokens, self._make.row_bytes),
        )

    def _check_make(self, header: Header) -> None:
        """Refuse a memory that another model or codec made."""
        where, make = f"session {header.session_id!r}", self._make
        if header.model_id != make.model_id:
            raise ModelMismatchError(
                f"{where} was made by model {header.model_id[:16]}…, this is "
                f"{make.model_id[:16]}…; open it with that one",
                session=header.session_id,
                wanted=header.model_id,
                got=make.model_id,
            )
        if header.codec_id != make.codec_id:
            raise CodecMismatchError(
                f"{where} keeps its queue in {_codec(header.codec_id)}, this store in "
                f"{_codec(make.codec_id)}; open it with the former",
                session=header.session_id,
                wanted=header.codec_id,
                got=make.codec_id,
            )


def _commit_id() -> str:
    return uuid.uuid4().hex[:16]


def _check_version(header: Header, expected_version: int | None) -> None:
    if expected_version is not None and header.version != expected_version:
        raise CommitConflictError(
            f"session {header.session_id!r} is at version {header.version}, not "
            f"{expected_version}: another writer came first; read it and try again",
            session=header.session_id,
            version=header.version,
        )


def _already_there(session_id: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"session {session_id!r} is there already; append to it, or choose another name",
        session=session_id,
    )


def _codec(codec_id: str) -> str:
    return f"codec {codec_id[:16]}…" if codec_id else "no codec"
