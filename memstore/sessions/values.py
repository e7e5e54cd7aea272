"""What a session store answers with. All values are frozen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session at one version, in figures.

    Attributes:
        session_id: its name.
        version: rises by one with each change; what `expected_version` is compared with.
        created_at, updated_at: RFC 3339, UTC.
        expires_at: when it is gone if nothing is appended until then; empty: never.
        forked_from: `<session_id>@<version>` that it began as; empty: as nothing.
        model_id: digest of the model and tokenizer that made its memory.
        codec_id: of the codec that its queue is kept in; empty: as it came from the model.
        num_tokens: tokens appended since it began, its forebears' included.
        num_windows: windows whose summary the queue holds now.
        num_bytes: bytes of all objects that the version is made of.
    """

    session_id: str
    version: int
    created_at: str
    updated_at: str
    expires_at: str
    forked_from: str
    model_id: str
    codec_id: str
    num_tokens: int
    num_windows: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionWindow:
    """A window of a session's text.

    Attributes:
        number: counted from the session's beginning, from 0.
        start, end: its tokens, counted likewise.
        text: what it says. The texts of all windows, one after the other, are what was appended.
    """

    number: int
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHit(SessionWindow):
    """A window with its score for a question: the mean over the question's summary entries of the
    largest cosine with an entry of the window.
    """

    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What the model wrote, and the session with it at its end."""

    text: str
    session: SessionInfo
