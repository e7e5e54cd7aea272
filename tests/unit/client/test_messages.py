"""Values to protobuf and back."""

from __future__ import annotations

import math

import pytest

from memstore.client import messages
from memstore.errors import InvalidInputError
from memstore.types import CollectionInfo, CommitResult, Hit, Passage
from memstore.v1 import memory_pb2 as pb

METADATA = {
    "text": "ünï",
    "empty": "",
    "least": -(1 << 63),
    "most": (1 << 63) - 1,
    "zero": 0,
    "double": 0.1,
    "whole": 1.0,
    "infinite": math.inf,
    "yes": True,
    "no": False,
    "null": None,
}
PASSAGE = {
    "document_id": "a#b",
    "number": 7,
    "text": "text",
    "title": "title",
    "start": 3,
    "end": 9,
    "num_tokens": 11,
    "metadata": METADATA,
}


def test_a_passage_survives_with_the_type_of_every_metadata_value():
    """Integers of 64 bits stay integers, 1.0 stays a double, null stays null."""
    passage = Passage(**PASSAGE)
    sent = pb.Passage.FromString(messages.passage_to_proto(passage).SerializeToString())
    back = messages.passage_from_proto(sent)
    assert back == passage
    assert {name: type(value) for name, value in back.metadata.items()} == {
        name: type(value) for name, value in METADATA.items()
    }


def test_a_hit_survives_with_the_very_score():
    """Scores are not rounded on the way."""
    hit = Hit(**PASSAGE, score=0.1 + 0.2)
    sent = pb.Hit.FromString(messages.hit_to_proto(hit).SerializeToString())
    assert messages.hit_from_proto(sent) == hit


def test_figures_survive():
    """Collection figures and commits come back equal."""
    info = CollectionInfo(
        name="wiki",
        version=1 << 40,
        created_at="2026-01-01T00:00:00+00:00",
        operation="append",
        encoder_id="e",
        encoder_source="all-MiniLM-L6-v2",
        codec_id="c",
        memory_dim=384,
        embedding_dim=128,
        record_bytes=48,
        num_passages=1,
        num_tokens=2,
        num_deleted=3,
        num_shards=4,
        shard_bytes=5,
        metadata_columns={"year": "int64"},
    )
    commit = CommitResult(collection="wiki", version=2, num_added=3, num_deleted=4)
    assert messages.info_from_proto(messages.info_to_proto(info)) == info
    assert messages.commit_from_proto(messages.commit_to_proto(commit)) == commit


@pytest.mark.parametrize("value", [1 << 63, [1], {"a": 1}, b"bytes", object()])
def test_a_value_of_no_column_type_is_refused_by_name(value: object):
    """The error names the column and not the value."""
    with pytest.raises(InvalidInputError, match="'year'"):
        messages.value_to_proto("year", value)


def test_pages_keep_order_and_stay_near_their_size():
    """Every message is on one page, and only a page of one message exceeds the aim."""
    sent = [pb.Passage(text="x" * size) for size in (10, 700_000, 700_000, 1_500_000, 10, 10)]
    paged = list(messages.pages(sent))
    assert [message for page in paged for message in page] == sent
    assert [len(page) for page in paged] == [2, 1, 1, 2]


def test_nothing_is_one_empty_page():
    """A header is sent even for no hits."""
    assert list(messages.pages([])) == [[]]


def test_a_message_that_no_peer_accepts_is_not_sent():
    """The error gives both sizes and the way out."""
    with pytest.raises(InvalidInputError, match="shorter passages"):
        list(messages.pages([pb.Passage(text="x" * (4 << 20))]))
