"""What the client asks: the arguments of its verbs as request messages.

Pure functions, shared by both clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from memstore.client.messages import check_size, pages, passage_to_proto
from memstore.client.rows import CODES, chunk_rows, dtype_to_proto
from memstore.errors import ConfigError, MemstoreError, ShapeError
from memstore.memories import check_memories
from memstore.types import Passage
from memstore.v1 import memory_service_pb2 as pb

_MODES = {
    "append": pb.WRITE_MODE_APPEND,
    "upsert": pb.WRITE_MODE_UPSERT,
    "replace": pb.WRITE_MODE_REPLACE,
}
_SPLIT = "ask for fewer ids at a time"


@contextmanager
def _argument_errors() -> Iterator[None]:
    """Protobuf refuses values of a wrong type or range with errors of Python's own."""
    try:
        yield
    except (TypeError, ValueError) as err:
        if isinstance(err, ConfigError | ShapeError):
            raise
        raise ConfigError(f"an argument is not what is accepted: {err}") from err


def question(
    query: str | np.ndarray,
    *,
    top_k: int,
    where: str | None,
    collection: str,
    version: int | None,
    rerank: int = 0,
) -> pb.Question:
    """Build the question of a search or query.

    Args:
        query: text, or a retrieval vector (E,) of floats.
        top_k: number of hits wanted.
        where: filter over metadata columns.
        collection: name of the collection.
        version: version to read; `None` for the newest.
        rerank: number of passages to rerank, 0 for none.
    """
    with _argument_errors():
        asked = pb.Question(
            collection=collection,
            version=version,
            top_k=top_k,
            where=where,
            rerank=rerank or None,
        )
        if isinstance(query, str):
            asked.text = query
        else:
            vector = np.asarray(query, dtype=np.float32)
            if vector.ndim != 1:
                raise ShapeError(f"query vector: got shape {vector.shape}, wanted (E,)")
            asked.vector.CopyFrom(pb.Vector(values=vector.tolist()))
        return check_size(asked, what="question", fix="ask a shorter one")


def query_request(asked: pb.Question, decoded: str | None) -> pb.QueryRequest:
    """Build a query; `decoded` names the dtype of vectors, `None` asks for codes."""
    return pb.QueryRequest(question=asked, dtype=dtype_to_proto(decoded or CODES))


def fetch_request(
    passage_ids: Sequence[str], *, collection: str, version: int | None, decoded: str | None
) -> pb.FetchRequest:
    """Build a request for passages by id."""
    with _argument_errors():
        request = pb.FetchRequest(
            collection=collection,
            version=version,
            passage_ids=_ids(passage_ids),
            dtype=dtype_to_proto(decoded or CODES),
        )
    return check_size(request, what="fetch", fix=_SPLIT)


def delete_request(
    *,
    passage_ids: Sequence[str] | None,
    document_ids: Sequence[str] | None,
    where: str | None,
    collection: str,
) -> pb.DeleteRequest:
    """Build a request to delete by exactly one of passage ids, document ids or a filter."""
    given = [choice for choice in (passage_ids, document_ids, where) if choice is not None]
    if len(given) != 1:
        raise ConfigError(
            f"delete: got {len(given)} of passage_ids, document_ids and where; wanted one of them"
        )
    with _argument_errors():
        request = pb.DeleteRequest(collection=collection, where=where)
        if passage_ids is not None:
            request.passage_ids.CopyFrom(pb.Ids(ids=_ids(passage_ids)))
        if document_ids is not None:
            request.document_ids.CopyFrom(pb.Ids(ids=_ids(document_ids)))
    return check_size(request, what="delete", fix=_SPLIT)


def collection_request(collection: str, version: int | None) -> pb.GetCollectionRequest:
    """Build a request for a collection's figures."""
    with _argument_errors():
        return pb.GetCollectionRequest(collection=collection, version=version)


def versions_request(collection: str, page_token: str) -> pb.ListVersionsRequest:
    """Build a request for one page of a collection's versions."""
    with _argument_errors():
        return pb.ListVersionsRequest(collection=collection, page_token=page_token)


def codec_request(collection: str, codec_id: str) -> pb.GetCodecRequest:
    """Build a request for the files of a codec."""
    return pb.GetCodecRequest(collection=collection, codec_id=codec_id)


def _ids(ids: Sequence[str]) -> Sequence[str]:
    if isinstance(ids, str):  # a str is a sequence of str: one id would become one id a letter
        raise ConfigError(f"ids: got the string {ids!r}, wanted a list of ids")
    return ids


def write_requests(
    passages: Sequence[Passage],
    memories: Sequence[np.ndarray],
    *,
    embeddings: np.ndarray | None,
    mode: str,
    collection: str,
    encoder_id: str,
) -> WriteStream:
    """Build the messages of a write, each made only when it is sent.

    Args:
        passages: N passages.
        memories: N arrays, (T_i, D) floats each.
        embeddings: (N, E) floats, or `None`.
        mode: "append", "upsert" or "replace".
        collection: name of the collection.
        encoder_id: encoder that made the memories, or empty.
    """
    if mode not in _MODES:
        raise ConfigError(f"mode {mode!r}; wanted one of {', '.join(_MODES)}")
    dim = check_memories(passages, memories)
    if embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != len(passages)):
        raise ShapeError(f"embeddings of shape {embeddings.shape}; wanted ({len(passages)}, E)")
    with _argument_errors():
        header = pb.WriteHeader(
            collection=collection,
            mode=_MODES[mode],
            encoder_id=encoder_id,
            dim=dim,
            num_passages=len(passages),
        )
    return WriteStream(_write_messages(header, passages, memories, embeddings))


class WriteStream:
    """The messages of a write, and the error that ended them early.

    gRPC hides what its request iterators raise. A stream that ends early is refused by the server,
    because the header says what must come; the client then raises `error`.
    """

    def __init__(self, messages: Iterator[pb.WriteRequest]) -> None:
        self._messages = messages
        self.error: MemstoreError | None = None

    def __iter__(self) -> Iterator[pb.WriteRequest]:
        try:
            yield from self._messages
        except MemstoreError as err:
            self.error = err

    @contextmanager
    def reraise(self) -> Iterator[None]:
        """Raise the error that ended the messages, not what the server made of the rest."""
        try:
            yield
        except MemstoreError as err:
            if self.error is not None:
                raise self.error from err
            raise


def _write_messages(
    header: pb.WriteHeader,
    passages: Sequence[Passage],
    memories: Sequence[np.ndarray],
    embeddings: np.ndarray | None,
) -> Iterator[pb.WriteRequest]:
    yield pb.WriteRequest(header=header)
    for page in pages(_new_passages(passages, memories, embeddings)):
        yield pb.WriteRequest(passages=pb.NewPassages(passages=page))
    for chunk in chunk_rows(
        memories,
        codec_id="",
        dtype="float32",
        row_bytes=4 * header.dim,
        convert=lambda rows: rows.astype(np.float32, copy=False),
    ):
        yield pb.WriteRequest(chunk=chunk)


def _new_passages(
    passages: Sequence[Passage], memories: Sequence[np.ndarray], embeddings: np.ndarray | None
) -> Iterator[pb.NewPassage]:
    for row, (passage, memory) in enumerate(zip(passages, memories, strict=True)):
        with _argument_errors():
            message = pb.NewPassage(passage=passage_to_proto(passage))
        message.passage.num_tokens = memory.shape[0]
        if embeddings is not None:
            message.embedding.extend(np.asarray(embeddings[row], dtype=np.float32).tolist())
        yield message
