"""What readers ask of a source of memories beyond `MemorySource`, where it can do more."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol

from memstore.types import Hit, MemorySource, QueryResult

if TYPE_CHECKING:
    import numpy as np


class AsyncMemorySource(Protocol):
    """Where an event loop gets memories from: an `AsyncClient`, or a user's own class."""

    async def query(
        self,
        query: str | np.ndarray,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
    ) -> QueryResult:
        """As `MemorySource.query`."""
        ...


def is_async(source: MemorySource | AsyncMemorySource) -> bool:
    """Whether a source is to be awaited."""
    return inspect.iscoroutinefunction(source.query)


def find_passages(
    source: MemorySource, question: str, *, top_k: int, where: str | None, collection: str
) -> tuple[Hit, ...]:
    """Return the best passages for a question, and leave their memories where they are if the
    source has a `search`, as stores and clients have.
    """
    search: Any = getattr(source, "search", source.query)
    hits: tuple[Hit, ...] = search(question, top_k=top_k, where=where, collection=collection).hits
    return hits
