"""`SessionStore`: sessions that are created, appended to, continued, forked, searched and removed.

Does not: split text into requests, or know a transport.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memstore.errors import (
    CommitConflictError,
    ConfigError,
    CorruptionError,
    InvalidInputError,
    MemstoreError,
)
from memstore.sessions.archive import Archive, Make
from memstore.sessions.cache import Cache
from memstore.sessions.content import EMPTY, Content
from memstore.sessions.opened import Opened, info_of
from memstore.sessions.search import best_windows, check_top_k
from memstore.sessions.values import Continuation, SessionHit, SessionInfo, SessionWindow
from memstore.sessions.versions import Versions, check_session_id
from memstore.storage import ObjectStore, PosixStore

if TYPE_CHECKING:
    from memstore.models.melodi_state import MelodiState
    from memstore.sessions.language import SessionModel
    from memstore.types import Codec

MAX_NEW_TOKENS = 4096
DEFAULT_RAM_BYTES = 256 << 20

_log = logging.getLogger(__name__)

_MAX_TTL_S = 100 * 365 * 86_400
_GRACE_S = 72 * 3600  # that a writer may sleep before it cannot learn that its session is gone
_NUM_LOCKS = 64


def open_sessions(
    path: str | Path, model: str | Path, *, codec: str | Path | None = None
) -> SessionStore:
    """Open the sessions in a folder.

    Args:
        path: the folder; it is made with its first session.
        model: folder of the model, with its tokenizer.
        codec: folder of the codec in which queues are kept; None: as they come from the model.

    Raises:
        NotFoundError, ConfigError, CorruptionError: if model or codec cannot be loaded.
        CodecMismatchError: if the codec is not for this model's queue.
    """
    from memstore.codec import ProductCodec
    from memstore.sessions.language import SessionModel

    loaded = None if codec is None else ProductCodec.load(Path(codec))
    return SessionStore(PosixStore(path), SessionModel.from_pretrained(Path(model)), codec=loaded)


class SessionStore:
    """Sessions of one model under one root. Safe to use from many threads and processes.

    Changes to a session are made one after another in a process. Between processes the first wins,
    and the others get a `CommitConflictError`. What a call has returned is durable.

    Every method may raise `CorruptionError` or `FormatVersionError` when what is stored is damaged
    or of a newer memstore, and `StorageError` when the medium fails; methods that need the memory
    raise `ModelMismatchError` or `CodecMismatchError` when another model or codec made it.

    Args:
        objects: where sessions are kept; each folder at its top is one.
        model: reads and writes.
        codec: in which queues are kept; None: as they come from the model.
        ram_bytes: of memories that are kept at hand; the others are on disk only.
        clock: seconds since the epoch.

    Attributes:
        objects, model, codec: as given.

    Raises:
        CodecMismatchError: if the codec is not for this model's queue.
    """

    def __init__(
        self,
        objects: ObjectStore,
        model: SessionModel,
        *,
        codec: Codec | None = None,
        ram_bytes: int = DEFAULT_RAM_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.objects, self.model, self.codec = objects, model, codec
        self._clock = clock
        self._rows = model.row_format(codec)
        make = Make(
            model_id=model.id,
            codec_id=self._rows.codec_id,
            window=model.config.window,
            queue_windows=model.config.queue_windows,
            num_long_tokens=model.config.num_long_tokens,
            row_bytes=self._rows.row_bytes,
        )
        self._archive = Archive(Versions(objects), make, Cache(ram_bytes), clock)
        self._locks = [threading.Lock() for _ in range(_NUM_LOCKS)]

    def create(self, session_id: str | None = None, *, ttl_s: float | None = None) -> SessionInfo:
        """Begin a session.

        Args:
            session_id: its name, 1 to 63 of a-z, 0-9, `_` and `-`; None: one drawn at random.
            ttl_s: seconds after the last change at which it expires; None: never.

        Raises:
            AlreadyExistsError: if there is one of this name.
            ConfigError: if name or time are not such.
        """
        if ttl_s is not None and not 0 < ttl_s <= _MAX_TTL_S:
            raise ConfigError(f"ttl_s: got {ttl_s}, wanted more than 0, at most {_MAX_TTL_S}")
        return self._begin(session_id, EMPTY, ttl_s, "")

    def append(
        self, session_id: str, text: str, *, expected_version: int | None = None
    ) -> SessionInfo:
        """Add text to a session. Durable when it returns; there as a whole or not at all.

        Args:
            session_id: which.
            text: what comes next, one token or more; its beginning and end are those of tokens.
            expected_version: the version that it follows on; None: whichever is the newest.

        Raises:
            SessionNotFoundError: if there is none, or no longer.
            InvalidInputError: if the text holds no token, or is no Unicode.
            CommitConflictError: if the session is at another version, or another process is faster.
            StorageFullError: if there is no space; nothing was appended.
        """
        check_session_id(session_id)
        tokens = self.model.tokenize(text)
        with self._turn(session_id):
            base = self._archive.open(session_id, expected_version)
            opened = self._archive.commit(
                base, self.model.advance(base.content, tokens, self._rows)
            )
        return opened.info()

    def generate(
        self,
        session_id: str,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        expected_version: int | None = None,
    ) -> Continuation:
        """Let the model go on; what it writes becomes part of the session. To try, fork first.

        Args:
            session_id: which; something has been appended to it.
            max_new_tokens: tokens to write, 1 to 4,096.
            temperature: 0: the likeliest token each time; else what logits are divided by.
            seed: of the draws.
            expected_version: as in `append`.

        Raises:
            InvalidInputError: if nothing has been appended.
            ConfigError: if a number is out of range.
            SessionNotFoundError, CommitConflictError, StorageFullError: as `append`.
        """
        check_session_id(session_id)
        if not 1 <= max_new_tokens <= MAX_NEW_TOKENS:
            raise ConfigError(
                f"max_new_tokens: got {max_new_tokens}, wanted 1 to {MAX_NEW_TOKENS:,}"
            )
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ConfigError(f"temperature: got {temperature}, wanted 0 or more")
        if not 0 <= seed < 1 << 63:
            raise ConfigError(f"seed: got {seed}, wanted 0 to {(1 << 63) - 1}")
        with self._turn(session_id):
            base = self._archive.open(session_id, expected_version)
            if not len(base.content.tail):
                raise InvalidInputError(
                    f"session {session_id!r} is empty; append something to go on from"
                )
            text, content = self.model.write(
                base.content,
                self._rows,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
            )
            opened = self._archive.commit(base, content)
        return Continuation(text=text, session=opened.info())

    def fork(self, session_id: str, new_id: str | None = None) -> SessionInfo:
        """Begin another session as a copy of this one, which stays as it is.

        Args:
            session_id: what is copied, its time to live included.
            new_id: name of the copy; None: one drawn at random.

        Raises:
            SessionNotFoundError, AlreadyExistsError, ConfigError, StorageFullError.
        """
        source = self.opened(session_id)
        origin = f"{session_id}@{source.header.version}"
        return self._begin(new_id, source.content, source.header.ttl_s, origin)

    def info(self, session_id: str) -> SessionInfo:
        """Return a session's figures; its memory stays on disk."""
        record = self._archive.find(session_id)
        return info_of(record.header, record.num_bytes)

    def list(self, *, after: str = "", limit: int | None = None) -> Sequence[SessionInfo]:
        """Return the figures of sessions in the order of their names; damaged ones are logged.

        Args:
            after: begin after this name.
            limit: return at most so many; None: all.
        """
        found: list[SessionInfo] = []
        for header, num_bytes in self._archive.headers(after):
            if limit is not None and len(found) >= limit:
                break
            if not header.is_removed and not header.is_expired(self._clock()):
                found.append(info_of(header, num_bytes))
        return found

    def windows(self, session_id: str) -> Sequence[SessionWindow]:
        """Return the text of the windows that the queue remembers, oldest first, and at the end
        what has been appended since the last of them.
        """
        return self.opened(session_id).content.texts(self.model.config.window)

    def state(self, session_id: str) -> MelodiState:
        """Return the memory as the model reads it, a batch of one; the tail is not in it."""
        return self.model.state(self.opened(session_id).content, self._rows)

    def search(self, session_id: str, query: str, *, top_k: int = 8) -> Sequence[SessionHit]:
        """Return the windows of the queue that are nearest to a question, the best first.

        Args:
            session_id: which.
            query: text of at most a window.
            top_k: hits wanted, 1 to 1,000.

        Raises:
            SessionNotFoundError: if there is none, or no longer.
            InvalidInputError: if the question holds no token or more than a window, or the model
                has no queue.
        """
        return self.rank(self.opened(session_id), query, top_k=top_k)

    def opened(self, session_id: str) -> Opened:
        """Return a session at its newest version, with its memory as it is kept."""
        return self._archive.open(session_id)

    def rank(self, opened: Opened, query: str, *, top_k: int) -> Sequence[SessionHit]:
        """As `search`, in a session that is open."""
        check_top_k(top_k)
        question = self.model.question(query)
        content = opened.content
        if not content.windows:
            return []
        entries = self._rows.unpack(content.rows()).float().numpy()
        entries = entries.reshape(len(content.windows), -1, self.model.config.dim)
        return best_windows(question, entries, content.queued(self.model.config.window), top_k)

    def remove(self, session_id: str) -> None:
        """End a session. Its name can be used again; one that is damaged is deleted at once.

        Raises:
            SessionNotFoundError: if there is none, or no longer.
            CommitConflictError: if another process is changing it.
        """
        with self._turn(session_id):
            try:
                header = self._archive.find(session_id).header
            except CorruptionError:
                self._archive.erase(session_id)
            else:
                self._archive.bury(header)

    def expire(self) -> Sequence[str]:
        """Remove the sessions whose time has run out, and what nobody needs any more: the ends of
        those long removed, and what writers that died left unfinished. One that cannot be removed
        is logged, and left to the next call.

        Returns:
            The names of those that were removed now.
        """
        now = self._clock()
        gone = []
        for header, _ in self._archive.headers():
            try:
                with self._turn(header.session_id):
                    self._archive.clean(header, now - _GRACE_S)
                    if not header.is_removed and header.is_expired(now):
                        self._archive.bury(header)
                        gone.append(header.session_id)
            except CommitConflictError:
                continue  # somebody uses it
            except MemstoreError as err:
                _log.error("session %s does not expire: %s", header.session_id, err)
        return gone

    def _turn(self, session_id: str) -> threading.Lock:
        return self._locks[zlib.crc32(session_id.encode("utf-8", "replace")) % _NUM_LOCKS]

    def _begin(
        self, session_id: str | None, content: Content, ttl_s: float | None, forked_from: str
    ) -> SessionInfo:
        session_id = uuid.uuid4().hex if session_id is None else session_id
        with self._turn(session_id):
            return self._archive.begin(session_id, content, ttl_s, forked_from).info()
