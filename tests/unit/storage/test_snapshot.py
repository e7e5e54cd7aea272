"""Snapshots: rows numbered through shards, filters, and what is deleted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from memstore import Store
from memstore.errors import ConfigError
from memstore.storage import Snapshot
from memstore.types import Passage

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]


@pytest.fixture
def snapshot(store: Store, make_memories: MakeMemories) -> Snapshot:
    """17 rows in three shards; the last has no `year`; rows 1 and 13 are deleted."""
    store.write(*make_memories(["d#0", "d#1", "d#2"]))
    passages, memories = make_memories(["e#0", "e#1"])
    bare = [
        Passage(document_id="e", number=i, text=passage.text, metadata={"extra": 0.5})
        for i, passage in enumerate(passages)
    ]
    store.write(bare, memories)
    store.delete(passage_ids=["a#1", "d#1"])
    return store.collection("default").snapshot()


def test_rows_run_through_the_shards(snapshot: Snapshot) -> None:
    """In the order in which they were written."""
    ids = [snapshot.passage(row).passage_id for row in range(snapshot.num_rows)]

    assert ids == [
        *(f"{name}#{number}" for name in "abc" for number in range(4)),
        "d#0", "d#1", "d#2", "e#0", "e#1",
    ]  # fmt: skip
    assert ids == snapshot.column("passage_id").to_pylist()
    assert [len(shard.columns) for shard in snapshot.shards] == [12, 3, 2]


def test_deleted_rows_keep_their_numbers(snapshot: Snapshot) -> None:
    """They are marked, in the first and in a later shard list."""
    assert snapshot.deleted.tolist() == [1, 13]
    assert np.flatnonzero(~snapshot.live).tolist() == [1, 13]
    assert not snapshot.live.flags.writeable


def test_records_are_those_of_the_row(snapshot: Snapshot, store: Store) -> None:
    """Also where a row is in a later shard."""
    for row in (0, 12, 16):
        memory = store.fetch([snapshot.passage(row).passage_id]).memories[0]

        assert np.array_equal(snapshot.records(row), memory.records)
        assert len(snapshot.records(row)) == snapshot.passage(row).num_tokens


@pytest.mark.parametrize("start", [0, 1, 12, 13, 16, 17])
def test_embeddings_begin_at_any_row(snapshot: Snapshot, start: int) -> None:
    """At the border of a shard, inside one, and behind the last."""
    whole = np.concatenate([shard.embeddings() for shard in snapshot.shards])

    assert np.array_equal(snapshot.embeddings(start), whole[start:])


@pytest.mark.parametrize("rows", [[], [0], [11, 12], [3, 14, 16], list(range(17))])
def test_embeddings_of_chosen_rows(snapshot: Snapshot, rows: list[int]) -> None:
    """Rising rows, from some or all shards."""
    chosen = snapshot.embedding_rows(np.array(rows, dtype=np.int64))

    assert np.array_equal(chosen, snapshot.embeddings()[rows])


def test_rows_are_found_by_a_columns_value(snapshot: Snapshot) -> None:
    """Live rows only, rising; values that are not there find nothing."""

    def found(column: str, values: list[str]) -> list[int]:
        rows: list[int] = snapshot.rows_with(column, pa.array(values, pa.string())).tolist()
        return rows

    assert found("passage_id", ["d#2", "a#0", "a#1", "nothing"]) == [0, 14]
    assert found("document_id", ["d", "e"]) == [12, 14, 15, 16]
    assert found("document_id", []) == []


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("year = 2001", [5, 9]),
        ("year is null", [15, 16]),
        ("extra = 0.5", [15, 16]),
        ("extra is not null and year is null", [15, 16]),
        ("document_id in ('d', 'e') and not passage_id = 'e#0'", [12, 14, 16]),
        ("num_tokens > 100", []),
        ("title = 'title of c'", [8, 9, 10, 11]),
        ("start >= 20 and end <= 29", [2, 6, 10, 14]),
    ],
)
def test_a_filter_finds_live_rows(snapshot: Snapshot, where: str, rows: list[int]) -> None:
    """Over the user's columns, null where a shard lacks one, and the store's own."""
    assert np.flatnonzero(snapshot.matching(where)).tolist() == rows


@pytest.mark.parametrize("column", ["text", "embedding", "codes", "crc32c", "number", "_row"])
def test_a_filter_does_not_see_the_stores_inner_columns(snapshot: Snapshot, column: str) -> None:
    """They are not part of the grammar."""
    with pytest.raises(ConfigError, match=f"no column '{column}'"):
        snapshot.matching(f"{column} = 1")


def test_a_snapshot_without_rows_answers(store: Store) -> None:
    """A collection may be empty at a version."""
    snapshot = Snapshot(store.collection("default").snapshot().manifest, [], np.zeros(0, np.int64))

    assert snapshot.embeddings().shape == (0, 16)
    assert snapshot.matching("year > 0").tolist() == []
    assert snapshot.rows_with("passage_id", pa.array(["a#0"])).tolist() == []


def test_any_column_name_can_be_filtered_by(store: Store, make_memories: MakeMemories) -> None:
    """A user's column cannot clash with one that the filter needs for itself."""
    passages, memories = make_memories(["d#0", "d#1"])
    named = [
        Passage(document_id="d", number=i, text=passage.text, metadata={"_row": i})
        for i, passage in enumerate(passages)
    ]
    store.write(named, memories)
    snapshot = store.collection("default").snapshot()
    (row,) = np.flatnonzero(snapshot.matching("_row = 1")).tolist()
    assert snapshot.passage(row).passage_id == "d#1"
