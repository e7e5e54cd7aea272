"""Arguments of the verbs to request messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memstore.client import requests
from memstore.client.connection import Caller
from memstore.errors import ConfigError, InvalidInputError, ShapeError
from memstore.types import Passage
from memstore.v1 import memory_pb2

QUESTION: dict[str, Any] = {"top_k": 8, "where": None, "collection": "c", "version": None}
WRITE: dict[str, Any] = {"embeddings": None, "mode": "append", "collection": "c", "encoder_id": ""}
PASSAGES = [Passage(document_id=f"d{i}", number=0, text="t") for i in range(2)]


def test_what_is_not_given_is_not_sent():
    """Presence tells version 0 and an empty filter from none."""
    asked = requests.question("q", **QUESTION)
    assert not asked.HasField("version")
    assert not asked.HasField("where")
    zero = requests.question("q", **{**QUESTION, "version": 0, "where": "", "top_k": 0})
    assert zero.HasField("version")
    assert zero.HasField("where")
    assert zero.HasField("top_k")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_a_vector_travels_as_float32(dtype: type):
    """Whatever the caller's dtype; lists work too."""
    vector = np.array([1, -2, 0.5]).astype(dtype)
    for query in (vector, vector.tolist()):
        asked = requests.question(query, **QUESTION)
        np.testing.assert_array_equal(list(asked.vector.values), vector.astype(np.float32))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"query": np.zeros((2, 2))}, ShapeError),
        ({"query": ["a", "b"]}, ConfigError),
        ({"query": "\ud800"}, ConfigError),
        ({"query": "x" * (5 << 20)}, InvalidInputError),
        ({"top_k": 1 << 70}, ConfigError),
        ({"top_k": "8"}, ConfigError),
        ({"version": 1.5}, ConfigError),
        ({"where": 3}, ConfigError),
        ({"collection": 3}, ConfigError),
    ],
)
def test_an_argument_that_cannot_be_sent_is_refused(
    change: dict[str, Any], error: type[InvalidInputError]
):
    """With the class that the store would raise."""
    arguments = {"query": "q", **QUESTION, **change}
    query = arguments.pop("query")
    with pytest.raises(error):
        requests.question(query, **arguments)


def test_too_many_ids_for_one_message_are_refused_before_they_are_sent():
    """The server would refuse the message without a reason."""
    ids = ["x" * 100] * 50_000
    with pytest.raises(InvalidInputError, match="fewer ids"):
        requests.fetch_request(ids, collection="c", version=None, decoded=None)
    with pytest.raises(InvalidInputError, match="fewer ids"):
        requests.delete_request(passage_ids=ids, document_ids=None, where=None, collection="c")


def test_a_write_is_header_passages_chunks():
    """The header announces what comes; rows travel as float32."""
    memories = [np.ones((2, 3), np.float16), np.full((1, 3), 2.0)]
    embeddings = np.eye(2)
    arguments = {**WRITE, "embeddings": embeddings, "mode": "upsert"}
    header, passages, chunk = requests.write_requests(PASSAGES, memories, **arguments)
    assert (header.header.num_passages, header.header.dim) == (2, 3)
    sent = passages.passages.passages
    assert [new.passage.num_tokens for new in sent] == [2, 1]
    assert [list(new.embedding) for new in sent] == embeddings.tolist()
    assert chunk.chunk.dtype == memory_pb2.DTYPE_FLOAT32
    rows = np.frombuffer(chunk.chunk.data, "<f4").reshape(3, 3)
    np.testing.assert_array_equal(rows, np.concatenate(memories))


@pytest.mark.parametrize(
    ("memories", "change", "error"),
    [
        ([np.ones((1, 3))], {}, ShapeError),
        ([np.ones((1, 3)), np.ones((1, 4))], {}, ShapeError),
        ([np.ones((1, 3)), np.ones(3)], {}, ShapeError),
        ([np.ones(3), np.ones(3)], {}, ShapeError),
        ([np.ones((1, 3)), np.ones((0, 3))], {}, ShapeError),
        ([np.ones((1, 3))] * 2, {"embeddings": np.ones((1, 4))}, ShapeError),
        ([np.ones((1, 3))] * 2, {"embeddings": np.ones(4)}, ShapeError),
        ([np.ones((1, 3))] * 2, {"mode": "overwrite"}, ConfigError),
        ([np.ones((1, 3))] * 2, {"collection": 7}, ConfigError),
    ],
)
def test_a_write_that_makes_no_sense_is_refused_at_once(
    memories: list[np.ndarray], change: dict[str, Any], error: type[InvalidInputError]
):
    """Nothing is sent."""
    with pytest.raises(error):
        requests.write_requests(PASSAGES, memories, **{**WRITE, **change})


def test_no_passages_are_refused():
    """As embedded."""
    with pytest.raises(ConfigError, match="no passages"):
        requests.write_requests([], [], **WRITE)


@pytest.mark.parametrize("token", ["line\nbreak", "tökén", "nul\0"])
def test_a_token_that_cannot_be_a_header_is_refused_without_showing_it(token: str):
    """The usual mistake is the line break of a file."""
    with pytest.raises(ConfigError, match="line break") as caught:
        Caller(token, 1.0)
    assert token not in str(caught.value)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_deadline_is_more_than_nothing(timeout_s: float):
    """A call without a deadline could wait for ever."""
    with pytest.raises(ConfigError, match="timeout_s"):
        Caller(None, timeout_s)
