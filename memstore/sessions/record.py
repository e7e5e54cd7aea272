"""A version of a session as one object: a sealed header, then blobs that it holds the checksums of.

Every byte is covered before it is parsed: the header by its seal, each blob by the crc32c that the
header gives, the length of the whole by the sum of both. docs/format.md describes the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import google_crc32c

from memstore.errors import CorruptionError, FormatVersionError
from memstore.storage import ObjectReader, seal, unseal

FORMAT_VERSION = 1
MAX_ANCESTORS = 16
"""Commits of others between a writer's commit and its look at it, after which it cannot know its
own any more."""

_MAGIC = b"memsess\n"
_PREFIX = struct.Struct("<8sI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Windows of the queue that lie in the object of an earlier version.

    Attributes:
        version, commit_id: which one.
        num_windows: windows in it; the oldest of them may have left the queue.
        num_bytes: of the whole object.
    """

    version: int
    commit_id: str
    num_windows: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a version is made of.

    Attributes:
        session_id, version: must equal the place where the object was found.
        commit_id: random; tells a writer whose answer was lost whether this commit is its own.
        ancestors: commit ids of the versions before it, the latest first, at most `MAX_ANCESTORS`.
        created_at, updated_at: UTC time of the session's first version, and of this one.
        ttl_s: seconds after `updated_at` at which the session expires; None: never.
        is_removed: the session ends with this version; it has no memory.
        forked_from: see `SessionInfo`.
        model_id, codec_id: what made the memory, and what its queue is kept in.
        num_tokens: appended since the session began.
        num_windows_read: windows that memory has taken in of them.
        num_windows: those of the queue.
        pieces: earlier versions that hold windows of the queue, oldest first.
        num_own_windows: windows in this object, later than those of all pieces; 0: the last piece
            holds the short-term memories, or there are none yet.
    """

    session_id: str
    version: int
    commit_id: str
    ancestors: tuple[str, ...]
    created_at: str
    updated_at: str
    ttl_s: float | None = None
    is_removed: bool = False
    forked_from: str = ""
    model_id: str
    codec_id: str
    num_tokens: int = 0
    num_windows_read: int = 0
    num_windows: int = 0
    pieces: tuple[Piece, ...] = ()
    num_own_windows: int = 0

    @property
    def expires_at(self) -> str:
        """UTC time at which the session is gone; empty: never."""
        if self.ttl_s is None:
            return ""
        return format_time(parse_time(self.updated_at) + self.ttl_s)

    def is_expired(self, now: float) -> bool:
        """Say whether the session's time has run out, `now` in seconds since the epoch."""
        return self.ttl_s is not None and parse_time(self.updated_at) + self.ttl_s <= now


def format_time(seconds: float) -> str:
    """Spell seconds since the epoch as RFC 3339 in UTC, exact to the microsecond."""
    moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)
    return moment.isoformat(timespec="microseconds")


def parse_time(text: str) -> float:
    """Return seconds since the epoch of what `format_time` wrote."""
    return datetime.fromisoformat(text).timestamp()


def pack(header: Header, blobs: Mapping[str, bytes]) -> bytes:
    """Return the object of a version."""
    listed = [
        {"name": name, "num_bytes": len(blob), "crc32c": google_crc32c.value(blob)}
        for name, blob in blobs.items()
    ]
    sealed = seal({"format_version": FORMAT_VERSION, "header": asdict(header), "blobs": listed})
    return b"".join([_PREFIX.pack(_MAGIC, len(sealed)), sealed, *blobs.values()])


class Record:
    """The object of a version, opened: its header is checked, its blobs are when they are read.

    Args:
        reader: the object.
        key: its name, for errors.
        session_id, version: what the name says.

    Raises:
        CorruptionError: if it is not what `pack` wrote, or belongs to another place.
        FormatVersionError: if a newer memstore wrote it.
    """

    def __init__(self, reader: ObjectReader, key: str, session_id: str, version: int) -> None:
        self._reader, self._key = reader, key
        magic, length = _PREFIX.unpack(reader.read(0, _PREFIX.size))
        if magic != _MAGIC:
            raise self._damaged("it does not begin as a session's version does")
        body = unseal(bytes(reader.read(_PREFIX.size, length)), key)
        if body["format_version"] != FORMAT_VERSION:
            raise FormatVersionError(
                f"{key}: format {body['format_version']}, this memstore reads {FORMAT_VERSION}; "
                "upgrade",
                object=key,
            )
        self.header = _parse(body["header"])
        if (self.header.session_id, self.header.version) != (session_id, version):
            raise self._damaged(
                f"it holds version {self.header.version} of session {self.header.session_id!r}"
            )
        self._blobs: dict[str, tuple[int, int, int]] = {}
        end = _PREFIX.size + length
        for blob in body["blobs"]:
            self._blobs[blob["name"]] = end, blob["num_bytes"], blob["crc32c"]
            end += blob["num_bytes"]
        if end != reader.num_bytes:
            raise self._damaged(f"got {reader.num_bytes} bytes, wanted {end}")

    @property
    def num_bytes(self) -> int:
        """Length of the object."""
        return self._reader.num_bytes

    def blobs(self) -> dict[str, bytes]:
        """Return the blobs by name, checked.

        Raises:
            CorruptionError: if bytes are not those that were written.
        """
        found = {}
        for name, (start, length, wanted) in self._blobs.items():
            found[name] = bytes(self._reader.read(start, length))
            if google_crc32c.value(found[name]) != wanted:
                raise self._damaged(f"{name!r} does not match its crc32c")
        return found

    def _damaged(self, what: str) -> CorruptionError:
        return CorruptionError(
            f"{self._key}: {what}; restore it from a copy, or remove the session", object=self._key
        )


def descend(header: Header) -> tuple[str, ...]:
    """Return the ancestors of the version after this one."""
    return (header.commit_id, *header.ancestors)[:MAX_ANCESTORS]


def _parse(values: Mapping[str, Any]) -> Header:
    pieces: Sequence[Mapping[str, Any]] = values["pieces"]
    return Header(
        **{
            **values,
            "ancestors": tuple(values["ancestors"]),
            "pieces": tuple(Piece(**piece) for piece in pieces),
        }
    )
