"""Commits: what each mode publishes, what it refuses, and that a refusal publishes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from memstore import Store
from memstore.errors import (
    AlreadyExistsError,
    CodecMismatchError,
    CommitConflictError,
    ConfigError,
    CorruptionError,
    DuplicateIdError,
    EncoderMismatchError,
    ShapeError,
    StorageError,
    StorageFullError,
)
from memstore.storage import (
    Collection,
    NewShards,
    Pins,
    ShardContent,
    ShardEntry,
    WriteMode,
    check_pins,
    commit_delete,
    commit_shards,
)
from memstore.types import Passage

PINS = Pins(
    encoder={"id": "e" * 64}, codec_id="c" * 64, memory_dim=16, embedding_dim=4, record_words=2
)


@pytest.fixture
def target(make_store: Callable[..., Store]) -> Collection:
    """A collection that does not exist yet."""
    return Collection(make_store().objects, "default")


def put(
    target: Collection,
    *passage_ids: str,
    columns: dict[str, str] | None = None,
) -> ShardEntry:
    """Store a shard with these passages, two tokens each."""
    split = [name.rsplit("#", 1) for name in passage_ids]
    passages = [
        Passage(document_id=document, number=int(number), text="", num_tokens=2)
        for document, number in split
    ]
    content = ShardContent(
        passages=passages,
        embeddings=np.ones((len(passages), 4), dtype=np.float32),
        records=np.zeros((2 * len(passages), 2), dtype=np.uint16),
        metadata_columns=columns or {},
    )
    for codec_id in ("c" * 64, "d" * 64, "f" * 64):
        target.put_codec(codec_id, {"config.json": b"{}", "codec.safetensors": b""})
    return target.put_shard(content, "test")


def commit(
    target: Collection,
    *passage_ids: str,
    mode: WriteMode = "append",
    columns: dict[str, str] | None = None,
    pins: Pins = PINS,
    **options: Any,
) -> tuple[int, int, int]:
    """Commit one shard; return version, number added, number deleted."""
    entry = put(target, *passage_ids, columns=columns)
    new = NewShards(entries=[entry], metadata_columns=columns or {}, **options)
    result = commit_shards(target, new, pins, mode)
    return result.version, result.num_added, result.num_deleted


def live(target: Collection, version: int | None = None) -> list[str]:
    """Return the ids of the live passages of a version, in row order."""
    snapshot = target.snapshot(version)
    ids: list[str] = snapshot.column("passage_id").to_pylist()
    return [ids[row] for row in np.flatnonzero(snapshot.live)]


@pytest.mark.parametrize("mode", ["append", "upsert", "replace"])
def test_the_first_commit_makes_the_collection(target: Collection, mode: WriteMode) -> None:
    """In any mode it is version 1."""
    assert commit(target, "a#0", "b#0", mode=mode, job_id="job") == (1, 2, 0)

    manifest = target.manifest(1)
    assert (manifest.operation, manifest.job_id, manifest.parent) == (mode, "job", 0)
    assert manifest.encoder == PINS.encoder
    assert live(target) == ["a#0", "b#0"]


def test_an_append_adds(target: Collection) -> None:
    """The rows before it keep their places, and the version before it its rows."""
    commit(target, "a#0")

    assert commit(target, "a#1", "b#0") == (2, 2, 0)
    assert live(target) == ["a#0", "a#1", "b#0"]
    assert live(target, 1) == ["a#0"]


def test_an_append_refuses_ids_that_are_there(target: Collection) -> None:
    """The message names them; nothing is published."""
    commit(target, *(f"a#{i}" for i in range(12)))

    with pytest.raises(AlreadyExistsError, match=r"11 of these .* 'a#1', .*'a#10'; use mode"):
        commit(target, *(f"a#{i}" for i in range(1, 13)))
    assert target.versions() == [1]


def test_an_id_that_was_deleted_may_be_appended_again(target: Collection) -> None:
    """It is not there any more."""
    commit(target, "a#0", "b#0")
    commit_delete(target, target.snapshot(), np.array([0]))

    assert commit(target, "a#0") == (3, 1, 0)
    assert live(target) == ["b#0", "a#0"]


def test_an_upsert_supersedes_passages(target: Collection) -> None:
    """Those with the same id; others of the document stay."""
    commit(target, "a#0", "a#1", "b#0")

    assert commit(target, "a#1", "c#0", mode="upsert") == (2, 2, 1)
    assert live(target) == ["a#0", "b#0", "a#1", "c#0"]
    assert live(target, 1) == ["a#0", "a#1", "b#0"]


def test_an_upsert_may_supersede_documents(target: Collection) -> None:
    """Whole ones, so that a shorter text leaves no tail of the longer."""
    commit(target, "a#0", "a#1", "a#2", "b#0")

    assert commit(target, "a#0", mode="upsert", replaces="document_id") == (2, 1, 3)
    assert live(target) == ["b#0", "a#0"]


def test_deletions_add_up(target: Collection) -> None:
    """Over versions and shard lists; a row is counted once."""
    commit(target, "a#0", "b#0")
    commit(target, "c#0", "d#0")
    commit_delete(target, target.snapshot(), np.array([1, 2]))
    commit(target, "a#0", mode="upsert")
    result = commit_delete(target, target.snapshot(), np.array([3]))

    assert (result.version, result.num_added, result.num_deleted) == (5, 0, 1)
    assert live(target) == ["a#0"]
    assert [ref.num_deleted for ref in target.manifest(5).shard_lists] == [2, 2, 0]
    assert [live(target, version) for version in (1, 2, 3, 4)] == [
        ["a#0", "b#0"],
        ["a#0", "b#0", "c#0", "d#0"],
        ["a#0", "d#0"],
        ["d#0", "a#0"],
    ]


def test_a_replace_starts_afresh(target: Collection) -> None:
    """With another encoder, another codec, and columns of another type, if it likes."""
    commit(target, "a#0", "b#0", columns={"year": "int64"})
    commit_delete(target, target.snapshot(), np.array([0]))
    pins = dataclasses.replace(PINS, encoder={}, codec_id="d" * 64)

    assert commit(target, "b#0", mode="replace", columns={"year": "string"}, pins=pins) == (3, 1, 1)
    assert live(target) == ["b#0"]
    assert target.manifest(3).codec_id == "d" * 64
    assert target.manifest(3).metadata_columns == {"year": "string"}


def test_deleting_nothing_makes_no_version(target: Collection) -> None:
    """It is no error either."""
    commit(target, "a#0")

    result = commit_delete(target, target.snapshot(), np.zeros(0, dtype=np.int64))

    assert (result.version, result.num_deleted) == (1, 0)
    assert target.versions() == [1]


def test_a_delete_of_an_old_snapshots_rows_conflicts(target: Collection) -> None:
    """Its row numbers were found in another version."""
    commit(target, "a#0")
    old = target.snapshot()
    commit(target, "b#0")

    with pytest.raises(CommitConflictError, match="another writer made version 2"):
        commit_delete(target, old, np.array([0]))
    assert live(target) == ["a#0", "b#0"]


def test_one_write_has_no_id_twice(target: Collection) -> None:
    """Neither in a shard nor across its shards; the first ten are named."""
    names = [f"a#{i}" for i in range(11)]
    entries = [put(target, *names), put(target, *names, "b#0")]

    with pytest.raises(DuplicateIdError, match="11 passage ids occur more than once") as caught:
        commit_shards(target, NewShards(entries=entries, metadata_columns={}), PINS, "upsert")
    assert str(caught.value).count("'a#") == 10
    assert target.versions() == []


def test_columns_grow_and_keep_their_types(target: Collection) -> None:
    """A new column is added; one of another type is refused."""
    commit(target, "a#0", columns={"year": "int64"})
    commit(target, "b#0", columns={"lang": "string"})
    with pytest.raises(ConfigError, match="'year' is int64 in the collection"):
        commit(target, "c#0", columns={"year": "string"})

    assert target.manifest(2).metadata_columns == {"year": "int64", "lang": "string"}
    assert target.versions() == [1, 2]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"encoder": {"id": "f" * 64}}, EncoderMismatchError, "encoder e{16}…, got f{16}…"),
        ({"encoder": {}}, EncoderMismatchError, "got .none: memories brought by the user"),
        ({"codec_id": "f" * 64}, CodecMismatchError, "codec c{16}…, got f{16}…"),
        ({"memory_dim": 17}, ShapeError, "memory_dim is 16, got 17"),
        ({"embedding_dim": 5}, ShapeError, "embedding_dim is 4, got 5"),
    ],
)
def test_passages_of_another_make_are_refused(
    target: Collection, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Encoder, codec and widths are the collection's, in an upsert as in an append."""
    commit(target, "a#0")
    pins = dataclasses.replace(PINS, **change)
    for mode in ("append", "upsert"):
        with pytest.raises(error, match=message):
            commit(target, "b#0", pins=pins, mode=mode)

    assert target.versions() == [1]
    with pytest.raises(ShapeError, match="record_words is 2, got 3"):
        check_pins(target.manifest(1), dataclasses.replace(PINS, record_words=3))


def test_a_shard_that_is_not_there_is_not_published(target: Collection) -> None:
    """Data, then verify, then commit."""
    entry = put(target, "a#0")
    target.store.delete(target.key(entry.key))

    with pytest.raises(CorruptionError, match="is gone"):
        commit_shards(target, NewShards(entries=[entry], metadata_columns={}), PINS, "append")
    assert target.versions() == []


@pytest.mark.parametrize("error", [StorageError, StorageFullError])
def test_a_commit_does_not_fail_for_its_hint(
    target: Collection, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """The version is there: to report a failure would be wrong."""

    def fail(key: str, data: bytes) -> None:
        raise error("no hint today")

    monkeypatch.setattr(target.store, "put_hint", fail)

    assert commit(target, "a#0") == (1, 1, 0)
    assert commit(target, "b#0") == (2, 1, 0)
    assert Collection(target.store, "default").latest_version() == 2


def test_a_writer_whose_version_was_collected_commits_on_the_newest(
    target: Collection, make_store: Callable[..., Store]
) -> None:
    """Its own version and the next are gone: the number after them is not free to take."""
    commit(target, "a#0")
    other = Collection(make_store().objects, "default")
    for name in ("b#0", "c#0", "d#0"):
        commit(other, name)
    for version in (1, 2, 3):
        key = f"versions/{version:020d}.json"
        target.store.delete(target.key(key))

    assert commit(target, "e#0") == (5, 1, 0)
    assert live(other) == ["a#0", "b#0", "c#0", "d#0", "e#0"]
