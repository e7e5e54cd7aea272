"""One write over the wire, message by message."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from memstore.client.requests import write_requests
from memstore.errors import InvalidInputError, MemstoreError
from memstore.types import Passage
from memstore.v1 import memory_service_pb2 as pb
from server.upload import Upload

PASSAGES = [
    Passage(document_id=f"d{i}", number=i, text="t", metadata={"n": i}, num_tokens=i + 1)
    for i in range(3)
]
MEMORIES = [np.full((i + 1, 4), i, np.float32) for i in range(3)]
EMBEDDINGS = np.eye(3, 4, dtype=np.float32)


def _requests(embeddings: np.ndarray | None = EMBEDDINGS) -> list[pb.WriteRequest]:
    return list(
        write_requests(
            PASSAGES,
            MEMORIES,
            embeddings=embeddings,
            mode="upsert",
            collection="wiki",
            encoder_id="e",
        )
    )


def _take(requests: list[pb.WriteRequest], limit_bytes: int = 1 << 20) -> Upload:
    upload = Upload(limit_bytes)
    for request in requests:
        upload.add(request)
    return upload


def test_a_write_arrives_as_the_arguments_of_the_store():
    """Passages, memories and embeddings are those of the client."""
    arguments = _take(_requests()).finish()
    assert arguments["passages"] == PASSAGES
    for got, wanted in zip(arguments["memories"], MEMORIES, strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(arguments["embeddings"], EMBEDDINGS)
    assert (arguments["mode"], arguments["collection"]) == ("upsert", "wiki")
    assert arguments["encoder_id"] == "e"
    assert _take(_requests(None)).finish()["embeddings"] is None


def _more_passages(requests: list[pb.WriteRequest]) -> list[pb.WriteRequest]:
    requests[0].header.num_passages += 1
    return requests


def _ragged(requests: list[pb.WriteRequest]) -> list[pb.WriteRequest]:
    requests[1].passages.passages[1].embedding.pop()
    return requests


def _negative(requests: list[pb.WriteRequest]) -> list[pb.WriteRequest]:
    requests[1].passages.passages[0].passage.num_tokens = -1
    return requests


def _no_width(requests: list[pb.WriteRequest]) -> list[pb.WriteRequest]:
    requests[0].header.dim = 0
    return requests


def _mode(requests: list[pb.WriteRequest]) -> list[pb.WriteRequest]:
    requests[0].header.mode = 99
    return requests


def _damaged(requests: list[pb.WriteRequest]) -> list[pb.WriteRequest]:
    requests[2].chunk.crc32c ^= 1
    return requests


def _huge(requests: list[pb.WriteRequest]) -> list[pb.WriteRequest]:
    requests[0].header.dim = 1 << 62
    return requests


FAULTS: dict[str, Callable[[list[pb.WriteRequest]], list[pb.WriteRequest]]] = {
    "nothing": lambda requests: [],
    "no header": lambda requests: requests[1:],
    "two headers": lambda requests: [requests[0], *requests],
    "no passages": lambda requests: [requests[0], requests[2]],
    "passages after chunks": lambda requests: [*requests, requests[1]],
    "no chunks": lambda requests: requests[:2],
    "a chunk twice": lambda requests: [*requests, requests[2]],
    "an empty message": lambda requests: [*requests, pb.WriteRequest()],
    "more passages announced": _more_passages,
    "ragged embeddings": _ragged,
    "negative rows": _negative,
    "no width": _no_width,
    "unknown mode": _mode,
    "damaged": _damaged,
    "huge": _huge,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_write_that_is_not_whole_and_in_order_is_refused(fault: str):
    """Before anything reaches the store."""
    with pytest.raises(MemstoreError):
        _take(FAULTS[fault](_requests())).finish()


@pytest.mark.parametrize("limit_bytes", [10, 150])
def test_what_is_held_in_memory_is_bounded(limit_bytes: int):
    """Passages count as they come, memories as soon as they are announced."""
    with pytest.raises(InvalidInputError, match="split it"):
        _take(_requests(), limit_bytes)
