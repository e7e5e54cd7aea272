"""Passages found by id."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from memstore import Store
from memstore.errors import PassageNotFoundError
from memstore.index import Locator
from memstore.types import Passage

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]


def test_rows_come_in_the_order_of_the_ids(store: Store) -> None:
    """An id may be asked for twice."""
    locator = Locator(store.collection("default").snapshot())

    assert locator.rows(["c#3", "a#0", "b#1", "a#0"]) == [11, 0, 5, 0]
    assert locator.rows([]) == []


def test_every_row_is_found(store: Store, make_memories: MakeMemories) -> None:
    """In shards written in any order, ids of any alphabet."""
    store.write(*make_memories(["é#0", "Z#0", "😀#1", "ｱ#2", " #0", "a#40"]))
    store.write(*make_memories(["a#10", "0#0"]))
    snapshot = store.collection("default").snapshot()
    ids = snapshot.column("passage_id").to_pylist()

    assert Locator(snapshot).rows(ids) == list(range(len(ids)))


def test_a_superseded_passage_is_found_in_its_new_place(
    store: Store, make_memories: MakeMemories
) -> None:
    """The old row has the same id, and is dead."""
    store.write(*make_memories(["a#1", "b#2"], seed=1), mode="upsert")

    assert Locator(store.collection("default").snapshot()).rows(["a#1", "b#2", "a#0"]) == [
        12,
        13,
        0,
    ]


def test_ids_that_are_not_there_are_named(store: Store) -> None:
    """The first ten; deleted ones are not there."""
    store.delete(passage_ids=["a#0"])
    missing = ["a#0", "", "a", "zz#0", "\ud800", *(f"none#{i}" for i in range(10))]

    with pytest.raises(
        PassageNotFoundError, match=r"15 of 16 passages are not in version 2 .*: 'a#0', ''"
    ) as caught:
        Locator(store.collection("default").snapshot()).rows([*missing, "b#0"])
    assert "none#4" in str(caught.value)
    assert "none#5" not in str(caught.value)
