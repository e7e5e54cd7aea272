"""Streams of responses to results; a stream that is not whole and of one piece is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from memstore.client.answers import FetchAnswer, QueryAnswer
from memstore.client.messages import hit_to_proto, passage_to_proto
from memstore.client.plain import PlainCodec
from memstore.client.rows import chunk_rows
from memstore.errors import CorruptionError
from memstore.types import Hit, Passage
from memstore.v1 import memory_pb2
from memstore.v1 import memory_service_pb2 as pb

RECORDS = [np.arange(6, dtype=np.uint16).reshape(3, 2), np.full((1, 2), 65535, np.uint16)]
SNAPSHOT = memory_pb2.Snapshot(
    collection="wiki", version=3, encoder_id="e", codec_id="c", record_words=2, dim=2
)
CODEC = PlainCodec(dim=2, dtype="float16")
HITS = [
    Hit(document_id=f"d{i}", number=0, text=f"t{i}", num_tokens=len(records), score=1 - i / 2)
    for i, records in enumerate(RECORDS)
]


def _header(hits: list[Hit], **changes: object) -> pb.QueryResponse:
    header = pb.QueryHeader(
        snapshot=SNAPSHOT, num_hits=len(HITS), hits=[hit_to_proto(hit) for hit in hits]
    )
    for name, value in changes.items():
        setattr(header if name == "num_hits" else header.snapshot, name, value)
    return pb.QueryResponse(header=header)


def _parts() -> list[pb.QueryResponse]:
    chunks = chunk_rows(RECORDS, codec_id="c", row_bytes=1 << 20)
    headers = [_header(HITS[:1]), _header(HITS[1:])]
    return [*headers, *(pb.QueryResponse(chunk=chunk) for chunk in chunks)]


def _read(parts: list[pb.QueryResponse]) -> QueryAnswer:
    answer = QueryAnswer()
    for part in parts:
        answer.add(part)
    return answer


def test_pages_of_hits_and_chunks_become_one_result():
    """Headers and chunks may be cut anywhere."""
    answer = _read(_parts())
    assert answer.needs_codec
    result = answer.result(CODEC)
    assert (result.collection, result.version) == ("wiki", 3)
    assert (result.encoder_id, result.codec_id) == ("e", "c")
    assert list(result.hits) == HITS
    for memory, hit, records in zip(result.memories, HITS, RECORDS, strict=True):
        assert memory.passage_id == hit.passage_id
        np.testing.assert_array_equal(memory.records, records)


def test_a_fetch_keeps_its_order():
    """Passages come as they were asked for, without scores."""
    passages = [Passage(document_id="d", number=i, text="t", num_tokens=0) for i in (2, 1)]
    header = pb.FetchHeader(
        snapshot=SNAPSHOT,
        num_passages=2,
        passages=[passage_to_proto(passage) for passage in passages],
    )
    answer = FetchAnswer()
    answer.add(pb.FetchResponse(header=header))
    assert list(answer.result(CODEC).passages) == passages


def test_an_answer_without_hits_needs_no_codec():
    """Nothing is fetched for nothing."""
    answer = QueryAnswer()
    answer.add(pb.QueryResponse(header=pb.QueryHeader(snapshot=SNAPSHOT)))
    assert not answer.needs_codec
    assert answer.result(None).memories == ()


SPOILS: dict[str, Callable[[list[pb.QueryResponse]], list[pb.QueryResponse]]] = {
    "nothing": lambda parts: [],
    "no header": lambda parts: parts[2:],
    "a header is missing": lambda parts: [parts[0], *parts[2:]],
    "a chunk is missing": lambda parts: parts[:-1],
    "a header comes late": lambda parts: [*parts, _header([])],
    "a header twice": lambda parts: [parts[0], *parts],
    "versions differ": lambda parts: [parts[0], _header(HITS[1:], version=4), *parts[2:]],
    "counts differ": lambda parts: [parts[0], _header(HITS[1:], num_hits=3), *parts[2:]],
    "an empty message": lambda parts: [*parts, pb.QueryResponse()],
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_stream_that_is_not_whole_is_corruption(spoil: str):
    """Nothing of such an answer is returned."""
    with pytest.raises(CorruptionError):
        _read(SPOILS[spoil](_parts())).result(CODEC)


def test_a_codec_of_another_record_width_is_refused():
    """The answer and the codec must agree before anything is decoded."""
    with pytest.raises(CorruptionError, match="records of 4 words"):
        _read(_parts()).result(PlainCodec(dim=2, dtype="float32"))
