"""Sessions that were used last, in RAM up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict

from memstore.sessions.opened import Opened
from memstore.sessions.record import Header


class Cache:
    """Opened sessions, the latest used last. Safe to use from many threads.

    Args:
        max_bytes: of memory; a session that is larger is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._sessions: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, header: Header) -> Opened | None:
        """Return a session as this version has it, if it is here."""
        with self._lock:
            opened = self._sessions.get(header.session_id)
            if opened is None or opened.header.commit_id != header.commit_id:
                return None
            self._sessions.move_to_end(header.session_id)
            return opened

    def put(self, opened: Opened) -> None:
        """Keep a session, and let go of those used longest ago."""
        with self._lock:
            self._drop(opened.header.session_id)
            self._sessions[opened.header.session_id] = opened
            self._num_bytes += opened.content.num_bytes
            while self._num_bytes > self._max_bytes:
                self._drop(next(iter(self._sessions)))

    def drop(self, session_id: str) -> None:
        """Let go of a session."""
        with self._lock:
            self._drop(session_id)

    def _drop(self, session_id: str) -> None:
        opened = self._sessions.pop(session_id, None)
        if opened is not None:
            self._num_bytes -= opened.content.num_bytes
