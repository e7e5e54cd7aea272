"""A session at one version, with its memory."""

from __future__ import annotations

from dataclasses import dataclass

from memstore.sessions.content import Content
from memstore.sessions.record import Header
from memstore.sessions.values import SessionInfo


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A session at one version.

    Attributes:
        header: of the version.
        num_bytes: of the version's own object.
        content: its memory.
    """

    header: Header
    num_bytes: int
    content: Content

    def info(self) -> SessionInfo:
        """Return the session's figures."""
        return info_of(self.header, self.num_bytes)


def info_of(header: Header, num_bytes: int) -> SessionInfo:
    """Return the figures of a session from its newest header and the bytes of that object."""
    return SessionInfo(
        session_id=header.session_id,
        version=header.version,
        created_at=header.created_at,
        updated_at=header.updated_at,
        expires_at=header.expires_at,
        forked_from=header.forked_from,
        model_id=header.model_id,
        codec_id=header.codec_id,
        num_tokens=header.num_tokens,
        num_windows=header.num_windows,
        num_bytes=num_bytes + sum(piece.num_bytes for piece in header.pieces),
    )
