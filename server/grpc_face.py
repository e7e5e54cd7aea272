"""`memstore.v1.MemoryService` on a `Store`: requests to arguments, results to messages.

Does not: check credentials, count requests or map errors; `server.grpc_edge` does that around every
method.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import google_crc32c
import grpc

from memstore.client.messages import (
    PAGE_BYTES,
    check_size,
    commit_to_proto,
    hit_to_proto,
    info_to_proto,
    pages,
    passage_to_proto,
)
from memstore.client.rows import CODES, chunk_rows, dtype_from_proto, numpy_dtype
from memstore.errors import ConfigError
from memstore.service import Store
from memstore.types import CollectionInfo, FetchResult, Memory, QueryResult
from memstore.v1 import memory_pb2, memory_service_pb2_grpc
from memstore.v1 import memory_service_pb2 as pb
from server.metrics import Metrics
from server.upload import Upload
from server.work import Workers

SERVICE = pb.DESCRIPTOR.services_by_name["MemoryService"].full_name

_MAX_PAGE = 1000
_FEWER = "ask for fewer hits, or use Query, whose answer is a stream"


class MemoryServicer(memory_service_pb2_grpc.MemoryServiceServicer):
    """The gRPC face.

    Args:
        store: answers.
        workers: admits requests and does their work in threads.
        metrics: counts what is sent.
        max_write_bytes: bytes of one write.
    """

    def __init__(
        self, store: Store, workers: Workers, metrics: Metrics, max_write_bytes: int
    ) -> None:
        self._store = store
        self._workers = workers
        self._metrics = metrics
        self._max_write_bytes = max_write_bytes

    async def Search(
        self, request: pb.SearchRequest, context: grpc.aio.ServicerContext
    ) -> pb.SearchResponse:
        """Answer with hits alone."""
        with self._workers.admit(context.time_remaining()) as job:
            return await job.run(self._search, request)

    def _search(self, request: pb.SearchRequest) -> pb.SearchResponse:
        result = self._store.search(**_question(request.question))
        response = pb.SearchResponse(
            collection=result.collection,
            version=result.version,
            hits=[hit_to_proto(hit) for hit in result.hits],
        )
        return check_size(response, what="answer", fix=_FEWER)

    async def Query(
        self, request: pb.QueryRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.QueryResponse]:
        """Answer with hits, then their memories."""
        with self._workers.admit(context.time_remaining()) as job:
            async for part in job.stream(lambda: self._query(request)):
                yield part

    def _query(self, request: pb.QueryRequest) -> Iterator[pb.QueryResponse]:
        dtype = dtype_from_proto(request.dtype)
        result = self._store.query(**_question(request.question))
        for page in pages(hit_to_proto(hit) for hit in result.hits):
            header = pb.QueryHeader(
                snapshot=_snapshot(result), num_hits=len(result.hits), hits=page
            )
            yield pb.QueryResponse(header=header)
        for chunk in self._chunks(result.memories, result.codec_id, dtype):
            yield pb.QueryResponse(chunk=chunk)

    async def Fetch(
        self, request: pb.FetchRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.FetchResponse]:
        """Answer with passages, then their memories."""
        with self._workers.admit(context.time_remaining()) as job:
            async for part in job.stream(lambda: self._fetch(request)):
                yield part

    def _fetch(self, request: pb.FetchRequest) -> Iterator[pb.FetchResponse]:
        dtype = dtype_from_proto(request.dtype)
        result = self._store.fetch(
            list(request.passage_ids), collection=request.collection, version=_version(request)
        )
        for page in pages(passage_to_proto(passage) for passage in result.passages):
            header = pb.FetchHeader(
                snapshot=_snapshot(result), num_passages=len(result.passages), passages=page
            )
            yield pb.FetchResponse(header=header)
        for chunk in self._chunks(result.memories, result.codec_id, dtype):
            yield pb.FetchResponse(chunk=chunk)

    def _chunks(
        self, memories: Sequence[Memory], codec_id: str, dtype: str
    ) -> Iterator[memory_pb2.MemoryChunk]:
        if not memories:
            return
        codec = memories[0].codec
        if dtype == CODES:
            row_bytes = 2 * codec.record_words
            rows = (memory.records for memory in memories)
        else:  # each passage as a whole: a codec may predict a token from its neighbours
            row_bytes = codec.dim * numpy_dtype(dtype).itemsize
            rows = (memory.decode(dtype) for memory in memories)
        chunks = chunk_rows(rows, codec_id=codec_id, dtype=dtype, row_bytes=row_bytes)
        for chunk in chunks:
            self._metrics.count_rows(chunk.shape[0], len(chunk.data), is_decoded=dtype != CODES)
            yield chunk

    async def GetCodec(
        self, request: pb.GetCodecRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GetCodecResponse]:
        """Send the files of a codec; the receiver checks them by digest."""
        with self._workers.admit(context.time_remaining()) as job:
            async for part in job.stream(lambda: self._get_codec(request)):
                yield part

    def _get_codec(self, request: pb.GetCodecRequest) -> Iterator[pb.GetCodecResponse]:
        readers = self._store.codec_files(request.collection, request.codec_id)
        files = [
            pb.CodecFile(name=name, num_bytes=reader.num_bytes) for name, reader in readers.items()
        ]
        yield pb.GetCodecResponse(header=pb.CodecHeader(codec_id=request.codec_id, files=files))
        for name, reader in readers.items():
            for offset in range(0, reader.num_bytes, PAGE_BYTES):
                length = min(PAGE_BYTES, reader.num_bytes - offset)
                data = bytes(reader.read(offset, length))
                chunk = pb.CodecChunk(
                    file_name=name, offset=offset, data=data, crc32c=google_crc32c.value(data)
                )
                yield pb.GetCodecResponse(chunk=chunk)

    async def Write(
        self, request_iterator: AsyncIterator[pb.WriteRequest], context: grpc.aio.ServicerContext
    ) -> pb.WriteResponse:
        """Take in memories, then commit them as one version."""
        with self._workers.admit_upload(context.time_remaining()) as job:
            upload = Upload(self._max_write_bytes)
            async for request in request_iterator:
                upload.add(request)
            return await job.run(self._write, upload)

    def _write(self, upload: Upload) -> pb.WriteResponse:
        return pb.WriteResponse(commit=commit_to_proto(self._store.write(**upload.finish())))

    async def Delete(
        self, request: pb.DeleteRequest, context: grpc.aio.ServicerContext
    ) -> pb.DeleteResponse:
        """Delete by passage, document or filter."""
        with self._workers.admit(context.time_remaining()) as job:
            return await job.run(self._delete, request)

    def _delete(self, request: pb.DeleteRequest) -> pb.DeleteResponse:
        target = request.WhichOneof("target")
        commit = self._store.delete(
            passage_ids=list(request.passage_ids.ids) if target == "passage_ids" else None,
            document_ids=list(request.document_ids.ids) if target == "document_ids" else None,
            where=request.where if target == "where" else None,
            collection=request.collection,
        )
        return pb.DeleteResponse(commit=commit_to_proto(commit))

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListCollectionsResponse:
        """Answer with every collection's figures."""
        with self._workers.admit(context.time_remaining()) as job:
            found = await job.run(self._store.collections)
        response = pb.ListCollectionsResponse(collections=[info_to_proto(info) for info in found])
        return check_size(response, what="answer", fix="split the store into several")

    async def GetCollection(
        self, request: pb.GetCollectionRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetCollectionResponse:
        """Answer with one collection's figures."""
        with self._workers.admit(context.time_remaining()) as job:
            info = await job.run(self._store.collection_info, request.collection, _version(request))
        return pb.GetCollectionResponse(collection=info_to_proto(info))

    async def ListVersions(
        self, request: pb.ListVersionsRequest, context: grpc.aio.ServicerContext
    ) -> pb.ListVersionsResponse:
        """Answer with a page of a collection's versions."""
        with self._workers.admit(context.time_remaining()) as job:
            found = await job.run(self._store.versions, request.collection)
        return _versions_page(found, request.page_size, request.page_token)


def _versions_page(
    found: list[CollectionInfo], page_size: int, page_token: str
) -> pb.ListVersionsResponse:
    """Cut the page after the version that the token names."""
    if page_size < 0 or (page_token and not page_token.isdecimal()):
        raise ConfigError(
            "page_size must not be negative, page_token must come from the page before"
        )
    rest = [info for info in found if info.version > int(page_token or 0)]
    size = min(page_size or _MAX_PAGE, _MAX_PAGE)
    page = rest[:size]
    return pb.ListVersionsResponse(
        versions=[info_to_proto(info) for info in page],
        next_page_token=str(page[-1].version) if len(rest) > size else "",
    )


def _question(question: pb.Question) -> dict[str, Any]:
    """Return a question as the arguments of `Store.search` and `Store.query`."""
    kind = question.WhichOneof("query")
    if kind is None:
        raise ConfigError("the question has neither text nor vector; set one of them")
    arguments: dict[str, Any] = {
        "query": question.text if kind == "text" else list(question.vector.values),
        "collection": question.collection,
        "version": _version(question),
        "where": question.where if question.HasField("where") else None,
    }
    for name in ("top_k", "rerank"):
        if question.HasField(name):
            arguments[name] = getattr(question, name)
    return arguments


def _version(request: pb.Question | pb.FetchRequest | pb.GetCollectionRequest) -> int | None:
    return request.version if request.HasField("version") else None


def _snapshot(result: QueryResult | FetchResult) -> memory_pb2.Snapshot:
    codec = result.memories[0].codec if result.memories else None
    return memory_pb2.Snapshot(
        collection=result.collection,
        version=result.version,
        encoder_id=result.encoder_id,
        codec_id=result.codec_id,
        record_words=codec.record_words if codec else 0,
        dim=codec.dim if codec else 0,
    )
