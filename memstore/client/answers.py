"""What the server says: streams of response messages as results.

Fed message by message, so both clients share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from memstore.client.messages import hit_from_proto, passage_from_proto
from memstore.client.plain import PlainCodec
from memstore.client.rows import CODES, RowTable, TableShape, split_rows
from memstore.errors import CorruptionError
from memstore.types import Codec, FetchResult, Hit, Memory, Passage, QueryResult, SearchResult
from memstore.v1 import memory_pb2, memory_service_pb2

PassageT = TypeVar("PassageT", bound=Passage)


def search_result(response: memory_service_pb2.SearchResponse) -> SearchResult:
    """Read the answer to a search."""
    return SearchResult(
        collection=response.collection,
        version=response.version,
        hits=tuple(hit_from_proto(hit) for hit in response.hits),
    )


class _MemoriesAnswer(Generic[PassageT]):
    """Collects headers, then chunks, of one answer.

    Args:
        dtype: spelling of the memories that was asked for.
    """

    def __init__(self, dtype: str = CODES) -> None:
        self._dtype = dtype
        self._snapshot: memory_pb2.Snapshot | None = None
        self._num_passages = 0
        self._passages: list[PassageT] = []
        self._table: RowTable | None = None

    @property
    def snapshot(self) -> memory_pb2.Snapshot:
        """What the answer was read from; only after the first message."""
        if self._snapshot is None:
            raise CorruptionError("the answer has no header; the stream is not whole")
        return self._snapshot

    @property
    def needs_codec(self) -> bool:
        """Whether there are memories that only the collection's codec opens."""
        return self._dtype == CODES and bool(self._passages)

    def _add_header(
        self, snapshot: memory_pb2.Snapshot, num_passages: int, passages: Sequence[PassageT]
    ) -> None:
        if self._snapshot is None:
            self._snapshot, self._num_passages = snapshot, num_passages
        if snapshot != self._snapshot or num_passages != self._num_passages or self._table:
            raise CorruptionError("headers of one answer differ or come after its chunks")
        self._passages.extend(passages)

    def _add_chunk(self, chunk: memory_pb2.MemoryChunk) -> None:
        self._open_table().add(chunk)

    def _open_table(self) -> RowTable:
        snapshot = self.snapshot
        if self._table is None:
            if len(self._passages) != self._num_passages:
                raise CorruptionError(
                    f"the answer has {len(self._passages)} passages, its header says "
                    f"{self._num_passages}"
                )
            is_codes = self._dtype == CODES
            shape = TableShape(
                num_rows=sum(passage.num_tokens for passage in self._passages),
                row_width=snapshot.record_words if is_codes else snapshot.dim,
                dtype=self._dtype,
                codec_id=snapshot.codec_id,
            )
            self._table = RowTable(shape)
        return self._table

    def _memories(self, codec: Codec | None) -> tuple[Memory, ...]:
        """Cut the table into memories, opened by `codec` if they came as codes."""
        table = self._open_table().finish()
        if not self._passages:
            return ()
        opener = codec or PlainCodec(dim=self.snapshot.dim, dtype=self._dtype)
        if self._dtype == CODES and opener.record_words != self.snapshot.record_words:
            raise CorruptionError(
                f"codec {opener.id}: records of {opener.record_words} words, "
                f"the answer says {self.snapshot.record_words}"
            )
        counts = [passage.num_tokens for passage in self._passages]
        return tuple(
            Memory(passage.passage_id, rows.view("uint16"), opener)
            for passage, rows in zip(self._passages, split_rows(table, counts), strict=True)
        )


class QueryAnswer(_MemoriesAnswer[Hit]):
    """Collects the answer to a query."""

    def add(self, part: memory_service_pb2.QueryResponse) -> None:
        """Take the next message; raises `CorruptionError` if it cannot be the next one."""
        if part.HasField("header"):
            hits = [hit_from_proto(hit) for hit in part.header.hits]
            self._add_header(part.header.snapshot, part.header.num_hits, hits)
        else:
            self._add_chunk(part.chunk)

    def result(self, codec: Codec | None) -> QueryResult:
        """Return the whole answer; raises `CorruptionError` if something is missing."""
        memories = self._memories(codec)
        return QueryResult(
            collection=self.snapshot.collection,
            version=self.snapshot.version,
            encoder_id=self.snapshot.encoder_id,
            codec_id=self.snapshot.codec_id,
            hits=tuple(self._passages),
            memories=memories,
        )


class FetchAnswer(_MemoriesAnswer[Passage]):
    """Collects the answer to a fetch."""

    def add(self, part: memory_service_pb2.FetchResponse) -> None:
        """Take the next message; raises `CorruptionError` if it cannot be the next one."""
        if part.HasField("header"):
            passages = [passage_from_proto(passage) for passage in part.header.passages]
            self._add_header(part.header.snapshot, part.header.num_passages, passages)
        else:
            self._add_chunk(part.chunk)

    def result(self, codec: Codec | None) -> FetchResult:
        """Return the whole answer; raises `CorruptionError` if something is missing."""
        memories = self._memories(codec)
        return FetchResult(
            collection=self.snapshot.collection,
            version=self.snapshot.version,
            encoder_id=self.snapshot.encoder_id,
            codec_id=self.snapshot.codec_id,
            passages=tuple(self._passages),
            memories=memories,
        )
