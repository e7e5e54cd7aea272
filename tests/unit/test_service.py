"""The store's verbs as an embedded user calls them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore.encoders
from memstore import ProductCodec, Store, open_store
from memstore.errors import (
    CodecNotFoundError,
    CollectionNotFoundError,
    ConfigError,
    EncoderMismatchError,
    NotFoundError,
    PassageNotFoundError,
    ShapeError,
    SnapshotNotFoundError,
)
from memstore.service import MAX_FETCH_IDS, MAX_TOP_K
from memstore.storage import NewShards, Pins, ShardContent, commit_shards
from memstore.types import EncodedBatch, EncoderIdentity, Passage, TokenizedPassage

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]


class LengthEncoder:
    """Embeds a text by its length: enough to see which encoder was asked."""

    def __init__(self, weights: str = "0", dim: int = 16) -> None:
        self._dim = dim
        self.identity = EncoderIdentity(
            family="length",
            weights_sha256=weights * 64,
            config_sha256="0" * 64,
            tokenizer_sha256="0" * 64,
            num_layers=1,
            num_frozen_layers=1,
            memory_dim=16,
            embedding_dim=dim,
            window_tokens=8,
            stride_tokens=8,
            template="{text}",
            special_tokens="kept",
            pooling="mean",
        )

    def encode(self, passages: Sequence[TokenizedPassage]) -> Iterator[EncodedBatch]:
        """Memories are brought in these tests."""
        raise NotImplementedError

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), D) float32: the unit vector whose number is the text's length."""
        return np.eye(self._dim, dtype=np.float32)[[len(text) for text in texts]]


def _question(store: Store, passage_id: str) -> np.ndarray:
    """The retrieval vector of a passage: nothing is nearer to it."""
    collection = store.collection("default")
    snapshot = collection.snapshot()
    row = snapshot.column("passage_id").to_pylist().index(passage_id)
    question: np.ndarray = snapshot.embeddings()[row].astype(np.float32)
    return question


@pytest.fixture
def pinned(make_store: Callable[..., Store], make_memories: MakeMemories) -> Store:
    """A store written with an encoder's id, that was not given the encoder."""
    store = make_store("pinned")
    passages, memories = make_memories(f"a#{i}" for i in range(16))
    store.write(passages, memories, embeddings=np.eye(16), encoder_id=LengthEncoder().identity.id)
    return store


def test_a_search_returns_the_nearest_passage_first(
    store: Store, make_memories: MakeMemories
) -> None:
    """With its score, text, title, span and metadata, and the version that was read."""
    result = store.search(_question(store, "b#2"), top_k=3)

    hit = result.hits[0]
    (passage,), (memory,) = make_memories(["b#2"])
    fields = {f.name: getattr(hit, f.name) for f in dataclasses.fields(Passage)}
    assert Passage(**fields) == dataclasses.replace(passage, num_tokens=len(memory))
    assert hit.score == pytest.approx(1, abs=1e-3)
    assert (result.collection, result.version, len(result.hits)) == ("default", 1, 3)
    assert [h.score for h in result.hits] == sorted((h.score for h in result.hits), reverse=True)


def test_a_filter_narrows_a_search(store: Store) -> None:
    """Fewer than `top_k` may pass it, or none."""
    question = _question(store, "b#2")

    assert {hit.passage_id for hit in store.search(question, where="year = 2003").hits} == {
        "a#3",
        "b#3",
        "c#3",
    }
    assert store.search(question, where="year = 1900").hits == ()


def test_a_query_brings_the_memories_of_its_hits(
    store: Store, make_memories: MakeMemories, codec: ProductCodec
) -> None:
    """Codes, decoded on demand."""
    result = store.query(_question(store, "c#1"), top_k=12)

    _, memories = make_memories(hit.passage_id for hit in result.hits)
    for hit, memory, brought in zip(result.hits, result.memories, memories, strict=True):
        assert memory.passage_id == hit.passage_id
        assert np.array_equal(memory.records, codec.encode(brought))
        assert np.array_equal(memory.decode(), codec.decode(codec.encode(brought)))
    assert (result.codec_id, result.encoder_id) == (codec.id, "")
    assert result.hits == store.search(_question(store, "c#1"), top_k=12).hits


def test_fetch_keeps_the_order_of_the_ids(store: Store, codec: ProductCodec) -> None:
    """Passages with their memories; twice if asked for twice."""
    result = store.fetch(["c#0", "a#3", "c#0"])

    assert [passage.passage_id for passage in result.passages] == ["c#0", "a#3", "c#0"]
    assert [memory.passage_id for memory in result.memories] == ["c#0", "a#3", "c#0"]
    assert [m.num_tokens for m in result.memories] == [p.num_tokens for p in result.passages]
    assert (result.collection, result.version, result.codec_id) == ("default", 1, codec.id)


@pytest.mark.parametrize("top_k", [0, -1, MAX_TOP_K + 1, 10**9])
def test_a_bad_top_k_is_refused(store: Store, top_k: int) -> None:
    """One to a thousand."""
    for call in (store.search, store.query):
        with pytest.raises(ConfigError, match=f"top_k is {top_k}; wanted 1 to 1000"):
            call(np.ones(16), top_k=top_k)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(15), r"shape \(15,\); wanted \(16,\)"),
        (np.ones((1, 16)), r"shape \(1, 16\); wanted \(16,\)"),
        (np.float32(1), r"shape \(\)"),
        (np.full(16, np.nan), "NaN or infinity"),
        (np.full(16, np.inf), "NaN or infinity"),
    ],
)
def test_a_bad_vector_is_refused(store: Store, vector: Any, message: str) -> None:
    """Its shape and its values."""
    with pytest.raises(ShapeError, match=message):
        store.search(vector)


def test_a_bad_filter_is_refused(store: Store) -> None:
    """With the grammar's own error."""
    with pytest.raises(ConfigError, match="no column 'author'"):
        store.search(np.ones(16), where="author = 'x'")


@pytest.mark.parametrize("count", [0, MAX_FETCH_IDS + 1])
def test_a_fetch_of_too_many_ids_is_refused(store: Store, count: int) -> None:
    """And of none."""
    with pytest.raises(ConfigError, match=f"fetch of {count} passages"):
        store.fetch(["a#0"] * count)


def test_an_unknown_passage_is_not_found(store: Store) -> None:
    """Nor is a deleted one."""
    store.delete(passage_ids=["a#0"])

    with pytest.raises(PassageNotFoundError, match=r"1 of 2 passages .* 'a#0'"):
        store.fetch(["a#0", "a#1"])


def test_an_unknown_collection_is_not_found(store: Store) -> None:
    """By every verb that reads."""
    calls: list[Callable[[], object]] = [
        lambda: store.search(np.ones(16), collection="other"),
        lambda: store.query(np.ones(16), collection="other"),
        lambda: store.fetch(["a#0"], collection="other"),
        lambda: store.delete(passage_ids=["a#0"], collection="other"),
        lambda: store.collection_info("other"),
        lambda: store.versions("other"),
        lambda: store.verify("other"),
        lambda: store.gc("other"),
        lambda: store.codec("other"),
        lambda: store.encoder("other"),
    ]
    for call in calls:
        with pytest.raises(CollectionNotFoundError, match="no collection 'other'"):
            call()


def test_an_older_version_is_read(store: Store, make_memories: MakeMemories) -> None:
    """By argument, or for a whole store that was opened at it."""
    store.write(*make_memories(["d#0"]))
    store.write(*make_memories(["e#0"], seed=1), mode="replace")
    old = open_store(store.objects.location, version=2)

    assert store.fetch(["d#0"], version=2).version == 2
    assert old.fetch(["a#0", "d#0"]).version == old.search(np.ones(16)).version == 2
    assert old.fetch(["a#0"], version=1).version == 1
    assert old.collection_info().version == old.verify().version == 2
    assert store.fetch(["e#0"]).version == 3
    with pytest.raises(PassageNotFoundError, match="version 3"):
        store.fetch(["d#0"])
    with pytest.raises(SnapshotNotFoundError, match="no version 4; the newest is 3"):
        store.search(np.ones(16), version=4)


def test_a_store_follows_another_writer(store: Store, make_memories: MakeMemories) -> None:
    """Without being told."""
    assert store.search(np.ones(16)).version == 1
    other = open_store(store.objects.location)
    other.write(*make_memories(["d#0"]))

    assert store.fetch(["d#0"]).version == store.search(np.ones(16)).version == 2


def test_many_versions_can_be_read_in_turn(store: Store, make_memories: MakeMemories) -> None:
    """More than are kept open at a time."""
    for number in range(7):
        store.write(*make_memories([f"d#{number}"]))

    for _ in range(2):
        assert [store.search(np.ones(16), top_k=20, version=v).version for v in range(1, 9)] == [
            *range(1, 9)
        ]
        assert [len(store.search(np.ones(16), top_k=20, version=v).hits) for v in range(1, 9)] == [
            *range(12, 20)
        ]


@pytest.mark.parametrize(
    ("what", "num_deleted"),
    [
        ({"passage_ids": ["a#0", "b#1", "nothing"]}, 2),
        ({"document_ids": ["a", "c"]}, 8),
        ({"where": "year >= 2002"}, 6),
        ({"passage_ids": []}, 0),
        ({"document_ids": ["nothing"]}, 0),
        ({"where": "year is null"}, 0),
    ],
)
def test_passages_are_deleted(store: Store, what: dict[str, Any], num_deleted: int) -> None:
    """By id, by document or by filter; nothing to delete is no version."""
    result = store.delete(**what)

    assert result.num_deleted == num_deleted
    assert result.version == (2 if num_deleted else 1)
    assert store.collection_info().num_passages == 12 - num_deleted
    assert store.collection_info(version=1).num_passages == 12
    assert len(store.search(np.ones(16), top_k=20).hits) == 12 - num_deleted


@pytest.mark.parametrize("what", [{}, {"passage_ids": ["a#0"], "where": "year > 0"}])
def test_a_delete_wants_exactly_one_of_three(store: Store, what: dict[str, Any]) -> None:
    """Nothing given is not everything."""
    with pytest.raises(ConfigError, match="delete wants one of"):
        store.delete(**what)


@pytest.mark.parametrize("ids", ["a", [1], ["\ud800"]])
def test_ids_to_delete_are_a_list_of_texts(store: Store, ids: Any) -> None:
    """One text would be taken for a list of letters."""
    with pytest.raises(ConfigError, match=r"document_ids (is one|holds what is no) text"):
        store.delete(document_ids=ids)
    assert store.collection_info().version == 1


def test_a_collection_is_described(
    store: Store, make_memories: MakeMemories, codec: ProductCodec
) -> None:
    """In figures, at any version."""
    _, memories = make_memories(f"{name}#{i}" for name in "abc" for i in range(4))
    store.delete(passage_ids=["a#0"])

    info = store.collection_info()

    assert (info.name, info.version, info.operation) == ("default", 2, "delete")
    assert (info.num_passages, info.num_deleted, info.num_shards) == (11, 1, 1)
    assert info.num_tokens == sum(map(len, memories))
    assert (info.memory_dim, info.embedding_dim, info.record_bytes) == (16, 16, 4)
    assert (info.codec_id, info.encoder_id, info.encoder_source) == (codec.id, "", "")
    assert info.metadata_columns == {"year": "int64", "lang": "string", "seed": "int64"}
    assert [version.operation for version in store.versions()] == ["append", "delete"]
    assert store.versions()[1] == info


def test_collections_are_listed(store: Store, make_memories: MakeMemories) -> None:
    """At their newest versions, by name; an empty store has none."""
    passages, memories = make_memories(f"z#{i}" for i in range(30))
    store.write(passages, memories, collection="another")
    store.delete(passage_ids=["a#0"])

    assert [(info.name, info.version) for info in store.collections()] == [
        ("another", 1),
        ("default", 2),
    ]
    assert open_store(Path(store.objects.location) / "nothing").collections() == []


def test_the_codec_is_handed_out(store: Store, codec: ProductCodec) -> None:
    """The collection's own, or one by id; its files too."""
    assert store.codec().id == store.codec(codec_id=codec.id).id == codec.id
    assert set(store.codec_files("default", codec.id)) == {"config.json", "codec.safetensors"}
    with pytest.raises(CodecNotFoundError, match="holds no codec 0000"):
        store.codec(codec_id="0" * 64)


def test_verify_and_gc_are_at_hand(store: Store, make_memories: MakeMemories) -> None:
    """With the storage's own reports."""
    store.write(*make_memories(["a#0", "a#1"]), mode="replace")

    assert store.verify().problems == store.verify(version=1).problems == ()
    assert store.gc(keep_versions=1, grace_s=0, dry_run=False).dropped_versions == (1,)
    assert [info.version for info in store.versions()] == [2]


def test_verify_reports_a_lost_list(store: Store) -> None:
    """It does not stop at what a reader would stop at."""
    (key,) = store.objects.list("default/lists/")
    store.objects.delete(key)

    (problem,) = store.verify().problems

    assert "is gone" in problem


def test_a_question_is_embedded_by_the_encoder_that_was_given(pinned: Store) -> None:
    """The one whose identity the collection pins."""
    store = open_store(pinned.objects.location, encoder=LengthEncoder())

    assert store.query("12345", top_k=1).hits[0].passage_id == "a#5"
    assert store.encoder().identity == LengthEncoder().identity


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(pinned: Store, question: str) -> None:
    """It has no direction."""
    with pytest.raises(ConfigError, match="question is empty"):
        pinned.search(question)


def test_a_text_cannot_search_memories_without_an_encoder(store: Store, pinned: Store) -> None:
    """Neither those that pin none, nor those of an encoder that nobody gave."""
    for unanswerable in (
        store,
        pinned,
        open_store(store.objects.location, encoder=LengthEncoder()),
    ):
        with pytest.raises(EncoderMismatchError, match="search it by vector"):
            unanswerable.search("a question")
    assert len(pinned.search(np.ones(16), top_k=3).hits) == 3


def test_a_question_must_fit_the_retrieval_vectors(
    make_store: Callable[..., Store], make_memories: MakeMemories, codec: ProductCodec
) -> None:
    """An encoder of another width than what was brought is refused."""
    encoder = LengthEncoder(dim=8)
    store = make_store(encoder=encoder)
    store.write(*make_memories(["a#0"]), codec=codec, encoder_id=encoder.identity.id)

    with pytest.raises(ShapeError, match=r"shape \(8,\); wanted \(16,\)"):
        store.search("text")


@pytest.fixture
def sourced(make_store: Callable[..., Store], codec: ProductCodec) -> Store:
    """A store as an encoding job leaves it: the manifest says where its encoder came from."""
    store = make_store("sourced")
    target = store.collection("default")
    target.put_codec(codec.id, dict(codec.files()))
    content = ShardContent(
        passages=[Passage(document_id="a", number=i, text="", num_tokens=1) for i in range(16)],
        embeddings=np.eye(16),
        records=np.zeros((16, 2), dtype=np.uint16),
        metadata_columns={},
    )
    pins = Pins(
        encoder={"id": LengthEncoder().identity.id, "options": {"source": "somewhere"}},
        codec_id=codec.id,
        memory_dim=16,
        embedding_dim=16,
        record_words=2,
    )
    new = NewShards(entries=[target.put_shard(content, "x")], metadata_columns={})
    commit_shards(target, new, pins, "append")
    return store


def test_a_collections_own_encoder_is_loaded_when_needed(
    sourced: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, from the source in its manifest."""
    loaded: list[str] = []

    def load(options: Any) -> LengthEncoder:
        loaded.append(options.source)
        return LengthEncoder()

    monkeypatch.setattr(memstore.encoders, "load_encoder", load)

    assert sourced.search(np.ones(16)).hits
    assert loaded == []
    assert [sourced.search("1234567", top_k=1).hits[0].number for _ in range(2)] == [7, 7]
    assert loaded == ["somewhere"]
    assert sourced.collection_info().encoder_source == "somewhere"


def test_a_source_that_holds_another_encoder_is_refused(
    sourced: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that was changed in its place would give other vectors."""
    monkeypatch.setattr(memstore.encoders, "load_encoder", lambda _: LengthEncoder("1"))

    with pytest.raises(EncoderMismatchError, match=r"pinned to encoder .*'somewhere' is now"):
        sourced.search("text")


def test_refresh_opens_what_is_new(store: Store, make_memories: MakeMemories) -> None:
    """So that the next request finds it open."""
    store.search(np.ones(16))
    open_store(store.objects.location).write(*make_memories(["d#0"]))

    store.refresh()

    for shard in Path(store.objects.location, "default/shards").iterdir():
        shard.unlink()
    assert store.search(np.ones(16)).version == 2
    assert len(store.fetch(["d#0", "a#0"]).memories) == 2


def test_refresh_keeps_what_is_open_when_the_new_is_damaged(
    store: Store, make_memories: MakeMemories, caplog: pytest.LogCaptureFixture
) -> None:
    """It warns, and raises nothing."""
    store.search(np.ones(16))
    open_store(store.objects.location).write(*make_memories(["d#0"]))
    for path in Path(store.objects.location, "default/lists").iterdir():
        path.unlink()

    with caplog.at_level(logging.WARNING):
        store.refresh()

    assert "collection default: lists/" in caplog.text
    assert store.search(np.ones(16), version=1).version == 1


def test_a_store_is_a_folder(tmp_path: Path) -> None:
    """Neither a file, nor a URL of another kind; `file://` is a folder too."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ConfigError, match="is a file; wanted a folder"):
        open_store(tmp_path / "file")
    with pytest.raises(ConfigError, match="local folders only"):
        open_store("s3://bucket/prefix")
    assert open_store(f"file://{tmp_path}/new").objects.location == f"{tmp_path}/new"


def test_a_store_that_must_be_there_is_not_made(tmp_path: Path) -> None:
    """And one that may be made is made at the first write, not before."""
    with pytest.raises(NotFoundError, match="no such folder"):
        open_store(tmp_path / "new", create=False)

    open_store(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "A", "", "a/b"])
def test_a_name_that_is_none_is_refused(store: Store, name: str) -> None:
    """Before the disk is touched."""
    with pytest.raises(ConfigError, match="collection name"):
        store.search(np.ones(16), collection=name)
