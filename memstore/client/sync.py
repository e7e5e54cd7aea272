"""`Client`: the verbs of a `Store` over gRPC, for code without an event loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import numpy as np

from memstore.client import requests
from memstore.client.answers import FetchAnswer, QueryAnswer, search_result
from memstore.client.codec_cache import DEFAULT_CACHE_BYTES, CodecCache, default_cache_dir
from memstore.client.connection import DEFAULT_TIMEOUT_S, Caller, channel_options
from memstore.client.failures import typed_errors
from memstore.client.messages import commit_from_proto, info_from_proto
from memstore.client.rows import CODES
from memstore.client.sessions import SessionClient
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


class Client:
    """A connection to a memstore server; safe to share between threads.

    Args:
        address: `host:port` of the server's gRPC face.
        token: bearer token, if the server wants one.
        timeout_s: deadline of every read, in seconds.
        cache_dir: folder for codecs; `None`: `memstore/codecs` in the user's cache folder.
        cache_bytes: bytes of codecs kept on disk.
        credentials: TLS credentials from `grpc.ssl_channel_credentials`; `None`: no TLS.

    Attributes:
        sessions: the verbs of a `SessionStore`, for a server that keeps sessions.

    Raises:
        UnavailableError: by every verb, if no server answers.
        DeadlineError: by every verb, if the answer takes too long.
        MemstoreError: by every verb, whatever the store raises at the server, as the same class.
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
        self._fetching = threading.Lock()
        options = channel_options()
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, credentials, options)
        self._stub: Any = memory_service_pb2_grpc.MemoryServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.sessions = SessionClient(self._channel, self._caller, address)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def search(
        self,
        query: str | np.ndarray,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
        version: int | None = None,
        rerank: int = 0,
    ) -> SearchResult:
        """Return the best passages for a question, without their memories; see `Store.search`."""
        asked = requests.question(
            query, top_k=top_k, where=where, collection=collection, version=version, rerank=rerank
        )
        request = pb.SearchRequest(question=asked)
        return search_result(self._unary(self._stub.Search, request))

    def query(
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
        """Return the best passages for a question with their memories; see `Store.query`.

        Args:
            query: text, or a retrieval vector (E,) of floats.
            top_k: number of hits wanted, 1 to 1,000.
            where: filter over metadata columns.
            collection: name of the collection.
            version: version to read; `None` for the newest.
            rerank: passages that are compared with the question token by token, by the server.
            decoded: `None`: memories come as codes and are decoded here, by the collection's
                codec, which is fetched once; "bfloat16", "float16" or "float32": the server
                decodes, and no codec is needed here.
        """
        asked = requests.question(
            query, top_k=top_k, where=where, collection=collection, version=version, rerank=rerank
        )
        answer = QueryAnswer(decoded or CODES)
        request = requests.query_request(asked, decoded)
        for part in self._stream(self._stub.Query, request, self._caller.read()):
            answer.add(part)
        return answer.result(self._codec_for(answer))

    def fetch(
        self,
        passage_ids: Sequence[str],
        *,
        collection: str = "default",
        version: int | None = None,
        decoded: str | None = None,
    ) -> FetchResult:
        """Return passages and memories by id, in the order asked; `decoded` as in `query`."""
        request = requests.fetch_request(
            passage_ids, collection=collection, version=version, decoded=decoded
        )
        answer = FetchAnswer(decoded or CODES)
        for part in self._stream(self._stub.Fetch, request, self._caller.read()):
            answer.add(part)
        return answer.result(self._codec_for(answer))

    def write(
        self,
        passages: Sequence[Passage],
        memories: Sequence[np.ndarray],
        *,
        embeddings: np.ndarray | None = None,
        mode: str = "append",
        collection: str = "default",
        encoder_id: str = "",
    ) -> CommitResult:
        """Write memories of the caller's own and commit them as one version; see `Store.write`.

        Args:
            passages: N passages.
            memories: N arrays, (T_i, D) floats each; they travel as float32.
            embeddings: (N, E) floats, scaled to unit length; by default the mean of each memory.
            mode: "append", "upsert" (same passage ids are superseded) or "replace".
            collection: made if it is not there.
            encoder_id: the encoder that made the memories; must be the collection's if it pins one.
        """
        messages = requests.write_requests(
            passages,
            memories,
            embeddings=embeddings,
            mode=mode,
            collection=collection,
            encoder_id=encoder_id,
        )
        with messages.reraise(), typed_errors(self.address):
            response = self._stub.Write(iter(messages), **self._caller.long())
        return commit_from_proto(response.commit)

    def delete(
        self,
        *,
        passage_ids: Sequence[str] | None = None,
        document_ids: Sequence[str] | None = None,
        where: str | None = None,
        collection: str = "default",
    ) -> CommitResult:
        """Delete by exactly one of passage ids, document ids or a filter; see `Store.delete`."""
        request = requests.delete_request(
            passage_ids=passage_ids, document_ids=document_ids, where=where, collection=collection
        )
        with typed_errors(self.address):
            response = self._stub.Delete(request, **self._caller.long())
        return commit_from_proto(response.commit)

    def collections(self) -> list[CollectionInfo]:
        """Return the figures of every collection at its newest version."""
        response = self._unary(self._stub.ListCollections, pb.ListCollectionsRequest())
        return [info_from_proto(info) for info in response.collections]

    def collection_info(
        self, collection: str = "default", version: int | None = None
    ) -> CollectionInfo:
        """Return the figures of one collection at one version."""
        request = requests.collection_request(collection, version)
        return info_from_proto(self._unary(self._stub.GetCollection, request).collection)

    def versions(self, collection: str = "default") -> list[CollectionInfo]:
        """Return the figures of every version of a collection, oldest first."""
        found: list[CollectionInfo] = []
        page_token = ""
        while True:
            request = requests.versions_request(collection, page_token)
            page = self._unary(self._stub.ListVersions, request)
            found.extend(info_from_proto(info) for info in page.versions)
            page_token = page.next_page_token
            if not page_token:
                return found

    def _codec_for(self, answer: QueryAnswer | FetchAnswer) -> ProductCodec | None:
        if not answer.needs_codec:
            return None
        codec_id = answer.snapshot.codec_id
        codec = self._cache.get(codec_id)
        if codec is None:
            with self._fetching:  # threads that want the same codec fetch it once
                codec = self._cache.get(codec_id) or self._fetch_codec(
                    answer.snapshot.collection, codec_id
                )
        return codec

    def _fetch_codec(self, collection: str, codec_id: str) -> ProductCodec:
        request = requests.codec_request(collection, codec_id)
        with self._cache.receive(codec_id) as arrival:
            for part in self._stream(self._stub.GetCodec, request, self._caller.long()):
                arrival.add(part)
            return arrival.finish()

    def _unary(self, method: Any, request: Any) -> Any:
        with typed_errors(self.address):
            return method(request, **self._caller.read())

    def _stream(self, method: Any, request: Any, options: dict[str, Any]) -> Iterator[Any]:
        with typed_errors(self.address):
            call = method(request, **options)
            try:
                yield from call
            finally:
                call.cancel()  # a reader that stops half-way tells the server so
