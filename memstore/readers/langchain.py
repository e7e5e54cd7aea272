"""A LangChain retriever over a store, a server, or a user's own source of memories.

Needs `langchain-core` (the extra `langchain`), no torch.
"""

from __future__ import annotations

from typing import Any

from memstore.errors import MissingDependencyError
from memstore.readers.sources import find_passages

try:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
except ModuleNotFoundError as err:
    raise MissingDependencyError(
        f"a LangChain retriever needs {err.name}, which is not installed; run "
        '"pip install memstore[langchain]"',
        extra="langchain",
    ) from err


class MemstoreRetriever(BaseRetriever):  # type: ignore[misc] # langchain-core may be absent
    """Finds passages as LangChain's documents.

    A document's `id` is the passage's; its metadata are the passage's, `document_id`, `title`,
    `start` and `end` (characters of the document), and `score`.

    Args:
        memories: a `MemorySource`, such as a `Store` or a `Client`.
        top_k, where, collection: as of `MemorySource.query`.

    Raises:
        MemstoreError: when asked, as the source.
    """

    memories: Any  # a Protocol, which pydantic cannot check
    top_k: int = 8
    where: str | None = None
    collection: str = "default"

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        hits = find_passages(
            self.memories,
            query,
            top_k=self.top_k,
            where=self.where,
            collection=self.collection,
        )
        return [
            Document(
                page_content=hit.text,
                id=hit.passage_id,
                metadata={
                    **hit.metadata,
                    "document_id": hit.document_id,
                    "title": hit.title,
                    "start": hit.start,
                    "end": hit.end,
                    "score": hit.score,
                },
            )
            for hit in hits
        ]
