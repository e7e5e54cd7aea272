"""A LlamaIndex retriever over a store, a server, or a user's own source of memories.

Needs `llama-index-core` (the extra `llamaindex`), no torch.
"""

from __future__ import annotations

import asyncio

from memstore.errors import MissingDependencyError
from memstore.readers.sources import find_passages
from memstore.types import Hit, MemorySource

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import (
        NodeRelationship,
        NodeWithScore,
        QueryBundle,
        RelatedNodeInfo,
        TextNode,
    )
except ModuleNotFoundError as err:
    raise MissingDependencyError(
        f"a LlamaIndex retriever needs {err.name}, which is not installed; run "
        '"pip install memstore[llamaindex]"',
        extra="llamaindex",
    ) from err


class MemstoreRetriever(BaseRetriever):  # type: ignore[misc] # llama-index-core may be absent
    """Finds passages as LlamaIndex's nodes.

    A node's id is the passage's, its source the document; its metadata are the passage's and
    `title`. Questions are embedded by the collection's own encoder: an embedding in a
    `QueryBundle` is not looked at.

    Args:
        memories: a `Store`, a `Client`, or a user's own class.
        top_k, where, collection: as of `MemorySource.query`.

    Raises:
        MemstoreError: when asked, as the source.
    """

    def __init__(
        self,
        memories: MemorySource,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
    ) -> None:
        super().__init__()
        self._memories = memories
        self._top_k, self._where, self._collection = top_k, where, collection

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = find_passages(
            self._memories,
            query_bundle.query_str,
            top_k=self._top_k,
            where=self._where,
            collection=self._collection,
        )
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _node(hit: Hit) -> TextNode:
    document = RelatedNodeInfo(node_id=hit.document_id)
    return TextNode(
        id_=hit.passage_id,
        text=hit.text,
        start_char_idx=hit.start,
        end_char_idx=hit.end,
        metadata={**hit.metadata, "title": hit.title},
        relationships={NodeRelationship.SOURCE: document},
    )
