"""Documents side by side: what each stream reads, and where it begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from encoder_jobs.melodi_streams import (
    Segment,
    Streams,
)
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_steps import NO_TARGET, in_shuffled_epochs
from memstore.errors import ConfigError

WINDOW = 4
SEGMENT = 2 * WINDOW
LENGTHS = (30, 2, 9, 17, 5, 3)


def make_documents(*lengths: int) -> Ragged:
    """Return documents whose tokens say which document and place they are of."""
    return Ragged.of([1000 * number + np.arange(n) for number, n in enumerate(lengths, start=1)])


def open_streams(
    documents: Ragged, num_streams: int, choose: Callable[[int], int | None]
) -> Streams:
    """Return streams of two windows a segment."""
    return Streams(documents, num_streams, window=WINDOW, segment_windows=2, choose=choose)


def once(order: np.ndarray) -> Callable[[int], int | None]:
    """Return the choice of documents in an order given, each once."""
    return lambda number: int(order[number]) if number < len(order) else None


def read_all(streams: Streams) -> list[Segment]:
    """Return all segments of streams that end."""
    segments = []
    while (segment := streams.next()) is not None:
        segments.append(segment)
    return segments


def pairs(segments: list[Segment]) -> list[tuple[int, int]]:
    """Return tokens with their targets, where there are such."""
    found = [
        (segment.tokens[place], segment.targets[place])
        for segment in segments
        for place in zip(*np.nonzero(segment.targets != NO_TARGET), strict=True)
    ]
    return [(int(token), int(target)) for token, target in found]


@pytest.mark.parametrize("num_streams", [1, 2, 3, 8])
def test_every_token_is_predicted_once_from_the_one_before(num_streams: int) -> None:
    """All but the first of each document, and none across a document's end."""
    documents = make_documents(*LENGTHS)

    segments = read_all(open_streams(documents, num_streams, once(np.arange(6))))

    wanted = Counter(
        (int(one), int(next_one))
        for number in range(6)
        for one, next_one in zip(documents[number][:-1], documents[number][1:], strict=True)
    )
    assert Counter(pairs(segments)) == wanted


def test_a_stream_reads_a_document_in_order() -> None:
    """Segment by segment."""
    segments = read_all(open_streams(make_documents(20, 3), 1, once(np.array([0, 1]))))

    assert [int(segment.tokens[0, 0]) for segment in segments] == [1000, 1008, 1016, 2000]
    assert [bool(segment.starts[0]) for segment in segments] == [True, False, False, True]


def test_what_is_read_is_whole_windows() -> None:
    """No longer than the longest stream needs, zeros after the end of a document."""
    segments = read_all(open_streams(make_documents(3, 11, 2), 2, once(np.arange(3))))

    assert [segment.tokens.shape for segment in segments] == [(2, SEGMENT), (2, WINDOW)]
    assert segments[0].tokens[0].tolist() == [1000, 1001, 0, 0, 0, 0, 0, 0]
    assert segments[0].targets[0].tolist() == [1001, 1002, *[NO_TARGET] * 6]
    assert [segment.num_targets for segment in segments] == [2 + 8, 1 + 2]


def test_epochs_have_every_document_once() -> None:
    """In another order each time; the same seed gives the same."""
    choose, again = in_shuffled_epochs(50, 7), in_shuffled_epochs(50, 7)
    first, second = ([choose(place) for place in range(at, at + 50)] for at in (0, 50))

    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert [again(place) for place in range(50)] == first
    assert [in_shuffled_epochs(50, 8)(place) for place in range(50)] != first


@pytest.mark.parametrize("num_read", range(1, 8))
def test_streams_go_on_from_where_they_were(num_read: int) -> None:
    """From any segment, into the next epochs."""
    documents = make_documents(*LENGTHS)
    streams, again = (open_streams(documents, 3, in_shuffled_epochs(6, 1)) for _ in range(2))
    for _ in range(num_read):
        streams.next()

    again.load(streams.to_tensors())

    for _ in range(12):
        wanted, got = streams.next(), again.next()
        assert wanted is not None
        assert got is not None
        for name in ("tokens", "targets", "starts"):
            np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))


def test_no_documents_and_documents_of_one_token_are_refused() -> None:
    """There is nothing to predict."""
    with pytest.raises(ConfigError, match="0 documents to read"):
        open_streams(Ragged.of([]), 1, once(np.arange(0)))
    with pytest.raises(ConfigError, match="2 documents to read, the shortest of 1 tokens"):
        open_streams(make_documents(4, 1), 1, once(np.arange(2)))
