"""The queues of sessions as a `MemorySource`: for retrievers and readers that go by the texts.

A memory is the summary entries of a window, which the session's model alone can read. A reader that
pins its encoder refuses them by the model's id; one that uses the texts does not care.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from memstore.errors import ConfigError, PassageNotFoundError
from memstore.sessions.opened import Opened
from memstore.sessions.store import SessionStore
from memstore.sessions.values import SessionWindow
from memstore.types import Codec, FetchResult, Hit, Memory, Passage, QueryResult


class SessionMemories:
    """Windows of sessions as passages; `collection` names the session.

    A passage's `document_id` is the session's, its `number` the window's; `start_token` and
    `end_token` are metadata, `num_tokens` counts its entries.

    Args:
        sessions: whose queues are kept in a codec.

    Raises:
        ConfigError: if they are not: there are no records to hand out.
    """

    def __init__(self, sessions: SessionStore) -> None:
        if sessions.codec is None:
            raise ConfigError(
                "these sessions keep their queues without a codec, and a memory is records of one; "
                "open them with a codec (train_queue_codec), or use search"
            )
        self._sessions = sessions
        self._codec: Codec = sessions.codec

    def query(
        self,
        query: str | np.ndarray,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
    ) -> QueryResult:
        """Return the windows that are nearest to a question, as `SessionStore.search` does.

        Raises:
            ConfigError: if the query is a vector, or there is a filter.
            SessionNotFoundError, InvalidInputError: as `SessionStore.search`.
        """
        if not isinstance(query, str) or where is not None:
            raise ConfigError("a session is asked with a text, and its windows have no columns")
        opened = self._sessions.opened(collection)
        found = self._sessions.rank(opened, query, top_k=top_k)
        return QueryResult(
            hits=tuple(Hit(**_fields(opened, hit), score=hit.score) for hit in found),
            memories=tuple(self._memory(opened, hit.number) for hit in found),
            **self._origin(opened),
        )

    def fetch(self, passage_ids: Sequence[str], *, collection: str = "default") -> FetchResult:
        """Return windows by id, `<session_id>#<number>`.

        Raises:
            PassageNotFoundError: if a window is not, or no longer, in the queue.
            SessionNotFoundError: if there is no such session.
        """
        opened = self._sessions.opened(collection)
        queued = opened.content.queued(self._sessions.model.config.window)
        known = {f"{collection}#{window.number}": window for window in queued}
        unknown = [each for each in passage_ids if each not in known]
        if unknown:
            raise PassageNotFoundError(
                f"session {collection!r}: {len(unknown)} of {len(passage_ids)} windows are not in "
                f"its queue, the first is {unknown[0]!r}",
                session=collection,
            )
        windows = [known[each] for each in passage_ids]
        return FetchResult(
            passages=tuple(Passage(**_fields(opened, window)) for window in windows),
            memories=tuple(self._memory(opened, window.number) for window in windows),
            **self._origin(opened),
        )

    def _memory(self, opened: Opened, number: int) -> Memory:
        first = opened.content.num_windows_read - len(opened.content.windows)
        records = opened.content.windows[number - first].rows.view("<u2")
        return Memory(f"{opened.header.session_id}#{number}", records, self._codec)

    def _origin(self, opened: Opened) -> dict[str, Any]:
        return {
            "collection": opened.header.session_id,
            "version": opened.header.version,
            "encoder_id": opened.header.model_id,
            "codec_id": self._codec.id,
        }


def _fields(opened: Opened, window: SessionWindow) -> dict[str, Any]:
    return {
        "document_id": opened.header.session_id,
        "number": window.number,
        "text": window.text,
        "num_tokens": len(opened.content.windows[0].rows),
        "metadata": {"start_token": window.start, "end_token": window.end},
    }
