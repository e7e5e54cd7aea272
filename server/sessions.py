"""The sessions that a server keeps, if it does, and whose turn it is to change one."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from memstore.errors import ConfigError, NotFoundError
from memstore.sessions import SessionStore, open_sessions
from server.settings import Settings


def open_kept(settings: Settings) -> SessionStore | None:
    """Open the sessions that the settings name; None if they name none.

    Raises:
        ConfigError: if only a part of what it takes is named.
        NotFoundError, ConfigError, CorruptionError, CodecMismatchError: as `open_sessions`.
    """
    if settings.sessions is None:
        if settings.session_model is not None or settings.session_codec is not None:
            raise ConfigError("session_model and session_codec need sessions: name their folder")
        return None
    if settings.session_model is None:
        raise ConfigError(f"sessions {settings.sessions}: name the model too, with session_model")
    return open_sessions(settings.sessions, settings.session_model, codec=settings.session_codec)


class Sessions:
    """What both faces share.

    Args:
        store: answers; None: this server keeps no sessions.
    """

    def __init__(self, store: SessionStore | None) -> None:
        self._store = store
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def store(self) -> SessionStore:
        """The store.

        Raises:
            NotFoundError: if there is none.
        """
        if self._store is None:
            raise NotFoundError(
                "this server keeps no sessions; start it with --sessions and --session-model"
            )
        return self._store

    def turn(self, session_id: str) -> asyncio.Lock:
        """Return what a change to a session is made inside of.

        Those who wait are let in as they came, and hold no thread meanwhile. Nobody waits for a
        session whose name is still to be drawn (empty).
        """
        if not session_id:
            return asyncio.Lock()
        return self._turns.setdefault(session_id, asyncio.Lock())
