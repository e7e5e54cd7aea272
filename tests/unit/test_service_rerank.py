"""Reranking as an embedded user asks for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from memstore import Store, open_store
from memstore.errors import ConfigError, EncoderMismatchError
from memstore.service import MAX_TOP_K
from memstore.types import Passage
from tests.unit.test_service import LengthEncoder

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]


class TokenEncoder(LengthEncoder):
    """Reads a question as a memory that is given."""

    def __init__(self, memory: np.ndarray) -> None:
        super().__init__()
        self._memory = memory

    def question(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The vector of `embed`, and the memory."""
        return self.embed([text])[0], self._memory


@pytest.fixture
def pinned(make_store: Callable[..., Store], make_memories: MakeMemories) -> Store:
    """A store written with an encoder's id, that was not given the encoder."""
    store = make_store("pinned")
    passages, memories = make_memories(f"a#{i}" for i in range(16))
    store.write(passages, memories, embeddings=np.eye(16), encoder_id=LengthEncoder().identity.id)
    return store


def test_reranking_compares_the_question_with_the_decoded_memories(pinned: Store) -> None:
    """A score is the mean of two: of the retrieval vectors, and of MaxSim over the question's."""
    memory = pinned.fetch(["a#9"]).memories[0].decode()
    store = open_store(pinned.objects.location, encoder=TokenEncoder(memory))
    retrieval = {hit.passage_id: hit.score for hit in store.search("12345", top_k=16).hits}

    result = store.query("12345", top_k=16, rerank=16)

    assert len(result.hits) == 16
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    for hit, found in zip(result.hits, result.memories, strict=True):
        assert found.passage_id == hit.passage_id
        best = (found.decode() @ memory.T).max(axis=0).sum() / np.square(memory).sum()
        assert hit.score == pytest.approx((retrieval[hit.passage_id] + best) / 2, abs=1e-5)


def test_reranking_chooses_among_the_candidates_alone(pinned: Store) -> None:
    """A passage that says the same as the question rises, if retrieval finds it at all."""
    memory = pinned.fetch(["a#9"]).memories[0].decode()
    store = open_store(pinned.objects.location, encoder=TokenEncoder(memory))
    found = [hit.passage_id for hit in store.search("12345", top_k=16).hits]
    place = found.index("a#9")

    with_it = store.search("12345", top_k=2, rerank=place + 1).hits
    without = store.search("12345", top_k=2, rerank=place).hits

    assert place > 2
    assert "a#9" in {hit.passage_id for hit in with_it}
    assert "a#9" not in {hit.passage_id for hit in without}


def test_reranking_nothing_finds_nothing(pinned: Store) -> None:
    """A filter may leave no candidate."""
    store = open_store(pinned.objects.location, encoder=TokenEncoder(np.ones((2, 16), np.float32)))

    assert store.search("12345", rerank=10, where="year = 1900").hits == ()


@pytest.mark.parametrize("rerank", [-1, 7, MAX_TOP_K + 1])
def test_a_bad_number_to_rerank_is_refused(store: Store, rerank: int) -> None:
    """Fewer candidates than hits make no sense, and there is a limit."""
    for call in (store.search, store.query):
        with pytest.raises(ConfigError, match=rf"rerank is {rerank}; wanted 0, or top_k \(8\) to"):
            call("a question", rerank=rerank)


def test_a_vector_cannot_be_reranked(pinned: Store) -> None:
    """It has no tokens."""
    with pytest.raises(ConfigError, match="has no tokens to rerank by"):
        pinned.search(np.ones(16), rerank=10)


def test_an_encoder_without_token_memories_cannot_rerank(pinned: Store) -> None:
    """It still embeds questions."""
    store = open_store(pinned.objects.location, encoder=LengthEncoder())

    with pytest.raises(EncoderMismatchError, match="which reranking compares"):
        store.search("12345", rerank=10)
    assert store.search("12345").hits
