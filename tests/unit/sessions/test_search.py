"""Which window speaks of something, and the same windows as a source of passages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from memstore import ProductCodec
from memstore.errors import (
    ConfigError,
    EncoderMismatchError,
    InvalidInputError,
    PassageNotFoundError,
    SessionNotFoundError,
)
from memstore.models.lumen_config import LumenConfig
from memstore.readers.pins import check_result
from memstore.readers.sources import find_passages
from memstore.sessions import SessionMemories, SessionModel, SessionStore
from memstore.sessions.search import score_windows
from tests.tiny_sessions import WINDOW, make_text

OpenStore = Callable[..., SessionStore]


@pytest.fixture(params=["plain", "codec"])
def read(
    request: pytest.FixtureRequest, open_store: OpenStore, codec: ProductCodec
) -> SessionStore:
    """A store with a session `s` of 43 words, with and without a codec."""
    store = open_store(codec=codec if request.param == "codec" else None)
    store.create("s")
    store.append("s", make_text(43))
    return store


def test_a_window_is_found_by_what_it_says(read: SessionStore) -> None:
    """Each window of the queue, asked for by its own words, comes first."""
    queued = read.windows("s")[:-1]
    assert len(queued) == 4

    found = [read.search("s", window.text)[0] for window in queued]
    assert [hit.number for hit in found] == [window.number for window in queued]
    assert [hit.text for hit in found] == [window.text for window in queued]


def test_hits_come_best_first(read: SessionStore) -> None:
    """As many as are asked for, or as there are; the tail is not in the queue."""
    hits = read.search("s", "sea ship", top_k=10)

    assert len(hits) == 4
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert read.search("s", "sea ship", top_k=2) == hits[:2]
    assert all(hit.end - hit.start == WINDOW for hit in hits)


def test_scores_are_the_mean_of_the_largest_cosines() -> None:
    """Against the definition, entry by entry; an entry of zeros is like nothing."""
    rng = np.random.default_rng(0)
    question = rng.standard_normal((3, 5)).astype(np.float32)
    entries = rng.standard_normal((4, 3, 5)).astype(np.float32)
    entries[2, 1] = 0

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / lengths) if lengths else 0.0

    wanted = [
        np.mean([max(cosine(each, entry) for entry in window) for each in question])
        for window in entries
    ]
    np.testing.assert_allclose(score_windows(question, entries), wanted, rtol=1e-5)


def test_a_session_without_a_full_window_finds_nothing(store: SessionStore) -> None:
    """Nor does an empty one."""
    assert store.search("s", "sea") == []
    store.append("s", make_text(WINDOW))
    assert store.search("s", "sea") == []


def test_a_question_longer_than_a_window_is_refused(read: SessionStore) -> None:
    """It could not leave one window's summary."""
    assert read.search("s", make_text(WINDOW))
    with pytest.raises(InvalidInputError, match="got 9 tokens, wanted at most 8"):
        read.search("s", make_text(WINDOW + 1))
    with pytest.raises(InvalidInputError, match="wanted one token or more"):
        read.search("s", " ")


@pytest.mark.parametrize("top_k", [0, -1, 1001])
def test_a_number_of_hits_that_is_none_is_refused(read: SessionStore, top_k: int) -> None:
    """As in a store."""
    with pytest.raises(ConfigError, match="top_k"):
        read.search("s", "sea", top_k=top_k)


@pytest.fixture
def coded(open_store: OpenStore, codec: ProductCodec) -> SessionStore:
    """A store with a codec and a session `s` of 43 words."""
    store = open_store(codec=codec)
    store.create("s")
    store.append("s", make_text(43))
    return store


def test_a_source_gives_the_windows_of_a_search(
    coded: SessionStore, codec: ProductCodec, model: SessionModel
) -> None:
    """As passages with the codes of their entries, which decode to the queue."""
    source = SessionMemories(coded)
    result = source.query("sea ship", top_k=3, collection="s")

    hits = coded.search("s", "sea ship", top_k=3)
    assert [(hit.passage_id, hit.text, hit.score) for hit in result.hits] == [
        (f"s#{hit.number}", hit.text, hit.score) for hit in hits
    ]
    assert (result.encoder_id, result.codec_id) == (model.id, codec.id)
    queue = coded.state("s").queue[0].float().numpy().reshape(4, 3, 16)
    for hit, memory in zip(result.hits, result.memories, strict=True):
        np.testing.assert_array_equal(memory.decode(), queue[hit.number - 1])
    fetched = source.fetch([hit.passage_id for hit in result.hits], collection="s")
    assert [passage.text for passage in fetched.passages] == [hit.text for hit in hits]
    assert find_passages(source, "sea ship", top_k=3, where=None, collection="s") == result.hits


def test_a_source_refuses_what_a_session_does_not_have(
    coded: SessionStore, open_store: OpenStore
) -> None:
    """Vectors, filters, windows that are gone, sessions without a codec."""
    source = SessionMemories(coded)
    with pytest.raises(ConfigError, match="asked with a text"):
        source.query(np.ones(16), collection="s")
    with pytest.raises(ConfigError, match="asked with a text"):
        source.query("sea", where="year > 1", collection="s")
    with pytest.raises(PassageNotFoundError, match="1 of 2 windows"):
        source.fetch(["s#2", "s#0"], collection="s")
    with pytest.raises(SessionNotFoundError):
        source.query("sea", collection="t")
    with pytest.raises(ConfigError, match="without a codec"):
        SessionMemories(open_store())


def test_a_reader_of_other_memories_refuses_the_source(coded: SessionStore) -> None:
    """The entries are the session model's own: a reader that pins its encoder says so."""
    config = LumenConfig(t5={"d_model": 16}, num_frozen_layers=1, encoder_id="e" * 64)
    result = SessionMemories(coded).query("sea", collection="s")

    with pytest.raises(EncoderMismatchError):
        check_result(config, result)
