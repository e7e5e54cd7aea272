"""`AsyncClient`: the verbs of a `Store` over gRPC, for code on an event loop.

It differs from `Client` in the awaiting alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import grpc.aio
import numpy as np

from memstore.client import requests
from memstore.client.answers import FetchAnswer, QueryAnswer, search_result
from memstore.client.codec_cache import DEFAULT_CACHE_BYTES, CodecCache, default_cache_dir
from memstore.client.connection import DEFAULT_TIMEOUT_S, Caller, channel_options
from memstore.client.failures import typed_errors
from memstore.client.messages import commit_from_proto, info_from_proto
from memstore.client.rows import CODES
from memstore.client.sessions import AsyncSessionClient
from memstore.codec import ProductCodec
from memstore.types import (
    CollectionInfo,
    CommitResult,
    FetchResult,
    Passage,
    QueryResult,
    SearchResult,
)
from memstore.v1 import memory_service_pb2 as pb
from memstore.v1 import memory_service_pb2_grpc


class AsyncClient:
    """A connection to a memstore server; belongs to the event loop that runs when it is made.

    Arguments, verbs and errors are those of `Client`.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        cache_dir: str | Path | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.address = address
        self._caller = Caller(token, timeout_s)
        self._cache = CodecCache(Path(cache_dir or default_cache_dir()), cache_bytes)
        self._fetching = asyncio.Lock()
        options = channel_options()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options)
        self._stub: Any = memory_service_pb2_grpc.MemoryServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.sessions = AsyncSessionClient(self._channel, self._caller, address)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def search(
        self,
        query: str | np.ndarray,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
        version: int | None = None,
        rerank: int = 0,
    ) -> SearchResult:
        """As `Client.search`."""
        asked = requests.question(
            query, top_k=top_k, where=where, collection=collection, version=version, rerank=rerank
        )
        request = pb.SearchRequest(question=asked)
        return search_result(await self._unary(self._stub.Search, request))

    async def query(
        self,
        query: str | np.ndarray,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
        version: int | None = None,
        rerank: int = 0,
        decoded: str | None = None,
    ) -> QueryResult:
        """As `Client.query`."""
        asked = requests.question(
            query, top_k=top_k, where=where, collection=collection, version=version, rerank=rerank
        )
        answer = QueryAnswer(decoded or CODES)
        request = requests.query_request(asked, decoded)
        async for part in self._stream(self._stub.Query, request, self._caller.read()):
            answer.add(part)
        return answer.result(await self._codec_for(answer))

    async def fetch(
        self,
        passage_ids: Sequence[str],
        *,
        collection: str = "default",
        version: int | None = None,
        decoded: str | None = None,
    ) -> FetchResult:
        """As `Client.fetch`."""
        request = requests.fetch_request(
            passage_ids, collection=collection, version=version, decoded=decoded
        )
        answer = FetchAnswer(decoded or CODES)
        async for part in self._stream(self._stub.Fetch, request, self._caller.read()):
            answer.add(part)
        return answer.result(await self._codec_for(answer))

    async def write(
        self,
        passages: Sequence[Passage],
        memories: Sequence[np.ndarray],
        *,
        embeddings: np.ndarray | None = None,
        mode: str = "append",
        collection: str = "default",
        encoder_id: str = "",
    ) -> CommitResult:
        """As `Client.write`."""
        messages = requests.write_requests(
            passages,
            memories,
            embeddings=embeddings,
            mode=mode,
            collection=collection,
            encoder_id=encoder_id,
        )
        with messages.reraise(), typed_errors(self.address):
            response = await self._stub.Write(iter(messages), **self._caller.long())
        return commit_from_proto(response.commit)

    async def delete(
        self,
        *,
        passage_ids: Sequence[str] | None = None,
        document_ids: Sequence[str] | None = None,
        where: str | None = None,
        collection: str = "default",
    ) -> CommitResult:
        """As `Client.delete`."""
        request = requests.delete_request(
            passage_ids=passage_ids, document_ids=document_ids, where=where, collection=collection
        )
        with typed_errors(self.address):
            response = await self._stub.Delete(request, **self._caller.long())
        return commit_from_proto(response.commit)

    async def collections(self) -> list[CollectionInfo]:
        """As `Client.collections`."""
        response = await self._unary(self._stub.ListCollections, pb.ListCollectionsRequest())
        return [info_from_proto(info) for info in response.collections]

    async def collection_info(
        self, collection: str = "default", version: int | None = None
    ) -> CollectionInfo:
        """As `Client.collection_info`."""
        request = requests.collection_request(collection, version)
        response = await self._unary(self._stub.GetCollection, request)
        return info_from_proto(response.collection)

    async def versions(self, collection: str = "default") -> list[CollectionInfo]:
        """As `Client.versions`."""
        found: list[CollectionInfo] = []
        page_token = ""
        while True:
            request = requests.versions_request(collection, page_token)
            page = await self._unary(self._stub.ListVersions, request)
            found.extend(info_from_proto(info) for info in page.versions)
            page_token = page.next_page_token
            if not page_token:
                return found

    async def _codec_for(self, answer: QueryAnswer | FetchAnswer) -> ProductCodec | None:
        if not answer.needs_codec:
            return None
        async with self._fetching:  # tasks that want the same codec fetch it once
            codec_id = answer.snapshot.codec_id
            # In a thread: verifying a large codec takes a good part of a second.
            codec = await asyncio.to_thread(self._cache.get, codec_id)
            return codec or await self._fetch_codec(answer.snapshot.collection, codec_id)

    async def _fetch_codec(self, collection: str, codec_id: str) -> ProductCodec:
        request = requests.codec_request(collection, codec_id)
        with self._cache.receive(codec_id) as arrival:
            async for part in self._stream(self._stub.GetCodec, request, self._caller.long()):
                await asyncio.to_thread(arrival.add, part)
            return await asyncio.to_thread(arrival.finish)

    async def _unary(self, method: Any, request: Any) -> Any:
        with typed_errors(self.address):
            return await method(request, **self._caller.read())

    async def _stream(
        self, method: Any, request: Any, options: dict[str, Any]
    ) -> AsyncIterator[Any]:
        with typed_errors(self.address):
            call = method(request, **options)
            try:
                async for part in call:
                    yield part
            finally:
                call.cancel()  # a reader that stops half-way tells the server so
