"""The values of `memstore.sessions` as protobuf messages and back, and the requests of its verbs.

Pure functions, shared by both clients and the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

from memstore.client.messages import check_size
from memstore.errors import ConfigError, MemstoreError
from memstore.sessions.values import Continuation, SessionHit, SessionInfo, SessionWindow
from memstore.v1 import session_service_pb2 as pb

MAX_PAGE = 1000


def session_to_proto(info: SessionInfo) -> pb.SessionInfo:
    """Spell a session's figures; the message has the fields of the dataclass by name."""
    return pb.SessionInfo(**asdict(info))


def session_from_proto(message: pb.SessionInfo) -> SessionInfo:
    """Read a session's figures."""
    return SessionInfo(**{each.name: getattr(message, each.name) for each in fields(SessionInfo)})


def window_to_proto(window: SessionWindow) -> pb.SessionWindow:
    """Spell a window, a hit's score left out."""
    return pb.SessionWindow(**_window_fields(window))


def window_from_proto(message: pb.SessionWindow) -> SessionWindow:
    """Read a window."""
    return SessionWindow(**_window_fields(message))


def hit_to_proto(hit: SessionHit) -> pb.SessionHit:
    """Spell a hit."""
    return pb.SessionHit(window=window_to_proto(hit), score=hit.score)


def hit_from_proto(message: pb.SessionHit) -> SessionHit:
    """Read a hit."""
    return SessionHit(**_window_fields(message.window), score=message.score)


def continuation(message: pb.GenerateSessionResponse) -> Continuation:
    """Read what the model wrote."""
    return Continuation(text=message.text, session=session_from_proto(message.session))


class Pages:
    """A list of sessions that comes in pages.

    Args:
        after: begin after this name.
        limit: at most so many; None: all.

    Attributes:
        found: what has come.
        is_done: no page is missing.
    """

    def __init__(self, after: str, limit: int | None) -> None:
        self._after, self._limit = after, limit
        self.found: list[SessionInfo] = []
        self.is_done = limit is not None and limit <= 0

    def request(self) -> pb.ListSessionsRequest:
        """Build the request for the next page."""
        size = MAX_PAGE if self._limit is None else min(MAX_PAGE, self._limit - len(self.found))
        with _argument_errors():
            return pb.ListSessionsRequest(page_size=size, page_token=self._after)

    def add(self, page: pb.ListSessionsResponse) -> None:
        """Take in a page."""
        self.found += map(session_from_proto, page.sessions)
        self._after = page.next_page_token
        self.is_done = not self._after or len(self.found) == self._limit


def create_request(session_id: str | None, ttl_s: float | None) -> pb.CreateSessionRequest:
    """Build a request for a new session."""
    _check_name(session_id)
    with _argument_errors():
        return pb.CreateSessionRequest(session_id=session_id or "", ttl_s=ttl_s)


def append_request(
    session_id: str, text: str, expected_version: int | None
) -> pb.AppendSessionRequest:
    """Build a request to add text.

    Raises:
        InvalidInputError: if the text is too long for one message.
    """
    with _argument_errors():
        request = pb.AppendSessionRequest(
            session_id=session_id, text=text, expected_version=expected_version
        )
    return check_size(request, what="append", fix="append the text in parts")


def generate_request(
    session_id: str,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    expected_version: int | None,
) -> pb.GenerateSessionRequest:
    """Build a request for the model to go on."""
    with _argument_errors():
        return pb.GenerateSessionRequest(
            session_id=session_id,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            expected_version=expected_version,
        )


def fork_request(session_id: str, new_id: str | None) -> pb.ForkSessionRequest:
    """Build a request for a copy."""
    _check_name(new_id)
    with _argument_errors():
        return pb.ForkSessionRequest(session_id=session_id, new_id=new_id or "")


def search_request(session_id: str, query: str, top_k: int) -> pb.SearchSessionRequest:
    """Build a question to a session."""
    with _argument_errors():
        request = pb.SearchSessionRequest(session_id=session_id, query=query, top_k=top_k)
    return check_size(request, what="question", fix="ask a shorter one")


def named_request(make: type[Any], session_id: str) -> Any:
    """Build a request that names a session and nothing else."""
    with _argument_errors():
        return make(session_id=session_id)


def _window_fields(window: SessionWindow | pb.SessionWindow) -> dict[str, Any]:
    return {each.name: getattr(window, each.name) for each in fields(SessionWindow)}


def _check_name(session_id: str | None) -> None:
    if session_id == "":  # it would be read as no name, and one be drawn
        raise ConfigError("session id: got an empty one; leave it out to have one drawn")


@contextmanager
def _argument_errors() -> Iterator[None]:
    """Protobuf refuses values of a wrong type or range with errors of Python's own."""
    try:
        yield
    except (TypeError, ValueError) as err:
        if isinstance(err, MemstoreError):
            raise
        # The error may quote what was given, and that may be a session's text.
        raise ConfigError(
            f"an argument is not what is accepted ({type(err).__name__}): wanted text that UTF-8 "
            "can spell, and numbers of 64 bits"
        ) from None
