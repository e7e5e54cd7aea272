"""Memories that users bring themselves: what is accepted, what is made of it, what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from memstore import ProductCodec, Store, ingest
from memstore.errors import (
    AlreadyExistsError,
    CodecMismatchError,
    ConfigError,
    DuplicateIdError,
    EncoderMismatchError,
    ShapeError,
)
from memstore.types import Passage

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]


@pytest.fixture
def empty(make_store: Callable[..., Store]) -> Store:
    """A store without collections."""
    return make_store("empty")


def test_written_memories_are_read_back(
    empty: Store, make_memories: MakeMemories, codec: ProductCodec
) -> None:
    """Through the codec that was given; `num_tokens` is counted, whatever the passages say."""
    passages, memories = make_memories(["a#0", "b#1"])
    lying = [dataclasses.replace(passage, num_tokens=99) for passage in passages]

    result = empty.write(lying, memories, codec=codec)

    assert dataclasses.astuple(result) == ("default", 1, 2, 0)
    fetched = empty.fetch(["a#0", "b#1"])
    assert fetched.codec_id == codec.id
    for passage, memory, vectors in zip(fetched.passages, fetched.memories, memories, strict=True):
        assert passage.num_tokens == memory.num_tokens == len(vectors)
        assert np.array_equal(memory.decode(), codec.decode(codec.encode(vectors)))


def test_a_codec_is_trained_when_none_is_given(empty: Store, make_memories: MakeMemories) -> None:
    """On these memories, and pinned: later writes use it."""
    empty.write(*make_memories(f"a#{i}" for i in range(120)))
    codec_id = empty.codec().id

    empty.write(*make_memories(["b#0"]))

    assert empty.codec().id == codec_id
    assert empty.codec().dim == 16


def test_a_codec_is_trained_on_a_sample(
    empty: Store, make_memories: MakeMemories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a corpus that is larger than is needed; the same one every time."""
    monkeypatch.setattr(ingest, "_CODEC_SAMPLE", 100)
    passages, memories = make_memories(f"a#{i}" for i in range(120))

    empty.write(passages, memories)
    empty.write(passages, memories, collection="again")

    assert empty.codec().id == empty.codec("again").id
    assert empty.codec().codebook_size <= 100


def test_retrieval_vectors_are_the_means_by_default(
    empty: Store, make_memories: MakeMemories, codec: ProductCodec
) -> None:
    """Scaled to unit length."""
    passages, memories = make_memories(["a#0", "b#1"])

    empty.write(passages, memories, codec=codec)

    means = np.stack([memory.mean(axis=0) for memory in memories])
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    stored = empty.collection("default").snapshot().embeddings()
    np.testing.assert_allclose(stored, unit, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_retrieval_vectors_may_be_brought(
    empty: Store, make_memories: MakeMemories, codec: ProductCodec, dtype: type
) -> None:
    """Of any width and numeric type; they are scaled to unit length."""
    embeddings: np.ndarray = np.array([[3, 4, 0], [0, 0, 9]], dtype)

    empty.write(*make_memories(["a#0", "b#1"]), embeddings=embeddings, codec=codec)

    stored = empty.collection("default").snapshot().embeddings()
    np.testing.assert_allclose(stored, np.array([[0.6, 0.8, 0], [0, 0, 1]]), atol=1e-3)
    assert empty.collection_info().embedding_dim == 3


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_memories_may_be_of_any_float(
    empty: Store, make_memories: MakeMemories, codec: ProductCodec, dtype: type
) -> None:
    """They are quantized as float32."""
    passages, memories = make_memories(["a#0"])
    narrow: np.ndarray = memories[0].astype(dtype)

    empty.write(passages, [narrow], codec=codec)

    records = empty.fetch(["a#0"]).memories[0].records
    assert np.array_equal(records, codec.encode(narrow.astype(np.float32)))


def test_many_tokens_are_cut_into_shards(
    store: Store, make_memories: MakeMemories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, and no passage across two."""
    monkeypatch.setattr(ingest, "_SHARD_TOKENS", 20)
    names = [f"d#{i}" for i in range(40)]
    passages, memories = make_memories(names)

    result = store.write(passages, memories)

    snapshot = store.collection("default").snapshot()
    assert result.num_added == 40
    assert len(snapshot.shards) > 5
    assert all(shard.entry.num_tokens <= 20 + 5 for shard in snapshot.shards[1:])
    assert snapshot.column("passage_id").to_pylist()[12:] == names


def test_metadata_comes_back_in_its_columns_type(
    empty: Store, make_memories: MakeMemories, codec: ProductCodec
) -> None:
    """Integers beside floats are floats; None is no value."""
    passages, memories = make_memories(["a#0", "a#1", "a#2"])
    values: list[Any] = [1, 2.5, None]
    rows = [
        dataclasses.replace(passage, metadata={"score": value, "kept": True})
        for passage, value in zip(passages, values, strict=True)
    ]

    empty.write(rows, memories, codec=codec)

    fetched = empty.fetch(["a#0", "a#1", "a#2"]).passages
    assert [p.metadata for p in fetched] == [
        {"score": 1.0, "kept": True},
        {"score": 2.5, "kept": True},
        {"kept": True},
    ]
    assert empty.collection_info().metadata_columns == {"score": "double", "kept": "bool"}


def test_an_upsert_supersedes_and_a_replace_starts_afresh(
    store: Store, make_memories: MakeMemories, codec: ProductCodec
) -> None:
    """The new memory is the one that is read."""
    passages, memories = make_memories(["a#0", "d#0"], seed=1)

    upserted = store.write(passages, memories, mode="upsert")

    assert (upserted.num_added, upserted.num_deleted) == (2, 1)
    fetched = store.fetch(["a#0"])
    assert np.array_equal(fetched.memories[0].records, codec.encode(memories[0]))
    assert fetched.passages[0].metadata["seed"] == 1
    replaced = store.write(passages, memories, mode="replace")
    assert (replaced.num_added, replaced.num_deleted) == (2, 13)
    assert store.collection_info().num_passages == 2


def test_an_encoders_identity_is_kept(
    empty: Store, make_memories: MakeMemories, codec: ProductCodec
) -> None:
    """Memories of another encoder, or of none, are refused from then on."""
    empty.write(*make_memories(["a#0"]), codec=codec, encoder_id="e" * 64)
    empty.write(*make_memories(["b#0"]), encoder_id="e" * 64)

    for other in ("f" * 64, ""):
        with pytest.raises(EncoderMismatchError, match="is pinned to encoder e"):
            empty.write(*make_memories(["c#0"]), encoder_id=other)
    assert empty.collection_info().encoder_id == "e" * 64
    assert empty.collection_info().version == 2


def _with_memory(memory: Any) -> Callable[[MakeMemories], tuple[list[Passage], list[Any]]]:
    def make(make_memories: MakeMemories) -> tuple[list[Passage], list[Any]]:
        passages, memories = make_memories(["d#0", "d#1"])
        return passages, [memories[0], memory]

    return make


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (np.zeros((0, 16), np.float32), r"'d#1' has shape \(0, 16\)"),
        (np.zeros((3, 15), np.float32), r"'d#1' has shape \(3, 15\); wanted \(T, 16\)"),
        (np.zeros(16, np.float32), r"'d#1' has shape \(16,\)"),
        (np.full((2, 16), np.nan, np.float32), "'d#1' holds NaN or infinity"),
        (np.full((2, 16), -np.inf, np.float32), "'d#1' holds NaN or infinity"),
    ],
)
def test_a_bad_memory_is_refused(
    store: Store, make_memories: MakeMemories, memory: Any, message: str
) -> None:
    """The message names the passage; nothing is published."""
    with pytest.raises(ShapeError, match=message):
        store.write(*_with_memory(memory)(make_memories))
    assert store.collection_info().version == 1


def test_memories_of_another_width_are_refused(
    store: Store, empty: Store, make_memories: MakeMemories, codec: ProductCodec
) -> None:
    """Than the collection's, and than the codec's."""
    passages, _ = make_memories(["d#0"])
    narrow = [np.ones((2, 12), np.float32)]

    with pytest.raises(ShapeError, match="memory_dim is 16, got 12"):
        store.write(passages, narrow, embeddings=np.ones((1, 16)))
    with pytest.raises(ShapeError, match="12"):
        empty.write(passages, narrow, codec=codec)
    assert empty.collections() == []


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.ones((1, 16)), r"embeddings of shape \(1, 16\); wanted \(2, E\)"),
        (np.ones(2), r"embeddings of shape \(2,\)"),
        (np.array([[1.0] * 16, [0.0] * 16]), "row 1 is zero or not finite"),
        (np.array([[1.0] * 16, [np.nan] * 16]), "row 1 is zero or not finite"),
        (np.array([[np.inf] * 16, [1.0] * 16]), "row 0 is zero or not finite"),
        (np.ones((2, 15)), "embedding_dim is 16, got 15"),
    ],
)
def test_bad_retrieval_vectors_are_refused(
    store: Store, make_memories: MakeMemories, embeddings: np.ndarray, message: str
) -> None:
    """By shape, by row, by width."""
    with pytest.raises(ShapeError, match=message):
        store.write(*make_memories(["d#0", "d#1"]), embeddings=embeddings)


def test_a_memory_that_averages_to_nothing_needs_a_retrieval_vector(
    store: Store, make_memories: MakeMemories
) -> None:
    """Its mean has no direction."""
    passages, _ = make_memories(["d#0"])
    opposite = np.array([[1.0] * 16, [-1.0] * 16], np.float32)

    with pytest.raises(ShapeError, match="row 0 is zero"):
        store.write(passages, [opposite])
    assert store.write(passages, [opposite], embeddings=np.ones((1, 16))).version == 2


def test_passages_and_memories_go_in_pairs(store: Store, make_memories: MakeMemories) -> None:
    """And there must be some."""
    passages, memories = make_memories(["d#0", "d#1"])

    with pytest.raises(ShapeError, match="2 passages and 1 memories"):
        store.write(passages, memories[:1])
    with pytest.raises(ConfigError, match="no passages to write"):
        store.write([], [])


def test_an_unknown_mode_is_refused(store: Store, make_memories: MakeMemories) -> None:
    """The message lists those that there are."""
    with pytest.raises(ConfigError, match="mode 'merge'; wanted one of append, upsert, replace"):
        store.write(*make_memories(["d#0"]), mode="merge")  # type: ignore[arg-type]


def test_ids_are_unique(store: Store, make_memories: MakeMemories) -> None:
    """In a write, and in an append to a collection."""
    with pytest.raises(DuplicateIdError, match="'d#0'"):
        store.write(*make_memories(["d#0", "d#1", "d#0"]), mode="upsert")
    with pytest.raises(AlreadyExistsError, match="'a#0'"):
        store.write(*make_memories(["d#0", "a#0"]))
    assert store.collection_info().version == 1


def test_another_codec_is_refused(store: Store, make_memories: MakeMemories) -> None:
    """A collection has one; a replace may change it."""
    other = ProductCodec(np.random.default_rng(9).standard_normal((4, 16, 4)).astype(np.float32))

    with pytest.raises(CodecMismatchError, match="is pinned to codec"):
        store.write(*make_memories(["d#0"]), codec=other)
    store.write(*make_memories(["d#0"]), codec=other, mode="replace")
    assert store.codec().id == other.id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "\ud800"}, "column 'text'"),
        ({"document_id": "\ud800"}, "column 'passage_id'"),
        ({"number": 2**31}, "column 'number'"),
        ({"metadata": {"year": 2**63}}, "column 'year'"),
        ({"metadata": {"codes": 1}}, "'codes'"),
        ({"metadata": {"two words": 1}}, "'two words'"),
        ({"metadata": {"nested": [1]}}, "'nested'"),
        ({"metadata": {"year": "x"}}, "'year' is int64 in the collection and string"),
    ],
)
def test_a_passage_that_cannot_be_stored_is_refused(
    store: Store, make_memories: MakeMemories, change: dict[str, Any], message: str
) -> None:
    """A typed error names the column; nothing is published."""
    passages, memories = make_memories(["d#0"])

    with pytest.raises(ConfigError, match=message):
        store.write([dataclasses.replace(passages[0], **change)], memories)
    assert store.collection_info().version == 1
