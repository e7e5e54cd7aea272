"""Any sequence of writes, deletes, collections and reads agrees with a dict for each version.

Two stores stand over the same folder for the whole run, so that each also meets what the other did;
a third is opened afresh for every comparison.
"""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from memstore import ProductCodec, Store, open_store
from memstore.errors import AlreadyExistsError, PassageNotFoundError, SnapshotNotFoundError
from memstore.types import Passage

DIM = 16
CODEC = ProductCodec(np.random.default_rng(0).standard_normal((4, 16, 4)).astype(np.float32))
UNIVERSE = [f"{document}#{number}" for document in "abcd" for number in range(3)]

Rows = dict[str, int]  # the live passages of a version in row order: id to the seed of its memory

ids = st.lists(st.sampled_from(UNIVERSE), min_size=1, max_size=5, unique=True)
seeds = st.integers(0, 3)
handles = st.integers(0, 1)
FILTERS: dict[str, Callable[[str, int], bool]] = {
    "year = 2001": lambda name, seed: name.endswith("#1"),
    "document_id in ('a', 'c') and seed > 1": lambda name, seed: name[0] in "ac" and seed > 1,
    "not (title = 'b' or year >= 2001)": lambda name, seed: name[0] != "b" and name[2] == "0",
    "seed is null": lambda name, seed: False,
}


@cache
def _memory(name: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    return rng.standard_normal((1 + int(rng.integers(4)), DIM)).astype(np.float32)


@cache
def _records(name: str, seed: int) -> np.ndarray:
    return CODEC.encode(_memory(name, seed))


def _passage(name: str, seed: int) -> Passage:
    document, number = name.split("#")
    return Passage(
        document_id=document,
        number=int(number),
        title=document,
        text=f"{name} {seed}",
        metadata={"year": 2000 + int(number), "seed": seed},
    )


class CollectionModel(RuleBasedStateMachine):
    """A collection beside what it should hold."""

    def __init__(self) -> None:
        super().__init__()
        # Durability is not the question here, and memory makes fsync free.
        memory = Path("/dev/shm")  # noqa: S108
        self._folder = tempfile.mkdtemp(dir=memory if memory.is_dir() else None)
        self._stores = [open_store(self._folder), open_store(self._folder)]
        self._versions: dict[int, Rows] = {}
        self._newest = 0

    def teardown(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder)

    @property
    def _rows(self) -> Rows:
        return self._versions[self._newest]

    def _committed(self, version: int, rows: Rows) -> None:
        self._newest += 1
        assert version == self._newest
        self._versions[version] = rows

    def _write(
        self, store: Store | int, mode: str, names: list[str], seed: int
    ) -> tuple[int, int, int]:
        result = (self._stores[store] if isinstance(store, int) else store).write(
            [_passage(name, seed) for name in names],
            [_memory(name, seed) for name in names],
            mode=mode,  # type: ignore[arg-type]
            codec=CODEC,
        )
        return result.version, result.num_added, result.num_deleted

    @initialize(names=ids, seed=seeds)
    def begin(self, names: list[str], seed: int) -> None:
        """Every run starts with a first version."""
        assert self._write(0, "append", names, seed) == (1, len(names), 0)
        self._committed(1, dict.fromkeys(names, seed))

    @rule(handle=handles, names=ids, seed=seeds)
    def append(self, handle: int, names: list[str], seed: int) -> None:
        """Adds all, or nothing if one is there."""
        if self._rows.keys() & set(names):
            with pytest.raises(AlreadyExistsError):
                self._write(handle, "append", names, seed)
            return
        version, num_added, num_deleted = self._write(handle, "append", names, seed)
        assert (num_added, num_deleted) == (len(names), 0)
        self._committed(version, {**self._rows, **dict.fromkeys(names, seed)})

    @rule(handle=handles, names=ids, seed=seeds)
    def upsert(self, handle: int, names: list[str], seed: int) -> None:
        """Supersedes those that are there; all stand at the end."""
        kept = {name: old for name, old in self._rows.items() if name not in names}
        num_there = len(self._rows) - len(kept)
        version, num_added, num_deleted = self._write(handle, "upsert", names, seed)
        assert (num_added, num_deleted) == (len(names), num_there)
        self._committed(version, {**kept, **dict.fromkeys(names, seed)})

    @rule(handle=handles, names=ids, seed=seeds)
    def replace(self, handle: int, names: list[str], seed: int) -> None:
        """Starts afresh."""
        num_there = len(self._rows)
        version, num_added, num_deleted = self._write(handle, "replace", names, seed)
        assert (num_added, num_deleted) == (len(names), num_there)
        self._committed(version, dict.fromkeys(names, seed))

    def _deleted(self, version: int, num_deleted: int, gone: set[str]) -> None:
        assert num_deleted == len(gone)
        if gone:
            rows = {name: seed for name, seed in self._rows.items() if name not in gone}
            self._committed(version, rows)
        assert version == self._newest

    @rule(handle=handles, names=ids)
    def delete_passages(self, handle: int, names: list[str]) -> None:
        """What is not there is no error."""
        result = self._stores[handle].delete(passage_ids=names)
        self._deleted(result.version, result.num_deleted, self._rows.keys() & set(names))

    @rule(handle=handles, documents=st.sets(st.sampled_from("abcdx"), max_size=2))
    def delete_documents(self, handle: int, documents: set[str]) -> None:
        """With all their passages."""
        result = self._stores[handle].delete(document_ids=sorted(documents))
        gone = {name for name in self._rows if name[0] in documents}
        self._deleted(result.version, result.num_deleted, gone)

    @rule(handle=handles, where=st.sampled_from(sorted(FILTERS)))
    def delete_where(self, handle: int, where: str) -> None:
        """Whatever passes the filter."""
        result = self._stores[handle].delete(where=where)
        gone = {name for name, seed in self._rows.items() if FILTERS[where](name, seed)}
        self._deleted(result.version, result.num_deleted, gone)

    @rule(handle=handles, keep=st.integers(1, 2))
    def collect(self, handle: int, keep: int) -> None:
        """Drop old versions without grace."""
        report = self._stores[handle].gc(keep_versions=keep, grace_s=0, dry_run=False)
        dropped = sorted(self._versions)[:-keep]
        assert list(report.dropped_versions) == dropped
        for version in dropped:
            del self._versions[version]

    @rule(names=ids, seed=seeds, num_commits=st.integers(1, 3))
    def another_process_works(self, names: list[str], seed: int, num_commits: int) -> None:
        """It makes some versions and collects all but the last, behind the back of the others."""
        store = open_store(self._folder)
        for _ in range(num_commits):
            self._committed(
                self._write(store, "replace", names, seed)[0], dict.fromkeys(names, seed)
            )
        store.gc(keep_versions=1, grace_s=0, dry_run=False)
        self._versions = {self._newest: self._rows}

    @rule(handle=handles)
    def reopen(self, handle: int) -> None:
        """A process ends and another begins."""
        self._stores[handle] = open_store(self._folder)

    @rule(handle=handles)
    def read_the_newest_version(self, handle: int) -> None:
        """By a store that may have missed some versions since it last looked."""
        self._compare(self._stores[handle], None)

    @rule(handle=handles, back=st.integers(0, 6))
    def read_an_older_version(self, handle: int, back: int) -> None:
        """It is as it was, or it was collected."""
        version = max(1, self._newest - back)
        if version in self._versions:
            self._compare(self._stores[handle], version)
            return
        with pytest.raises(SnapshotNotFoundError):
            open_store(self._folder).search(np.ones(DIM), version=version)

    @rule()
    def verify(self) -> None:
        """Nothing that a kept version names is gone or damaged."""
        store = open_store(self._folder)
        assert [info.version for info in store.versions()] == sorted(self._versions)
        for version in self._versions:
            assert store.verify(version=version).problems == ()

    @invariant()
    def the_newest_version_is_right(self) -> None:
        """To a fresh store, after every step."""
        if self._versions:
            self._compare(open_store(self._folder), None)

    def _compare(self, store: Store, version: int | None) -> None:
        rows = self._versions[version or self._newest]
        info = store.collection_info(version=version)
        assert (info.version, info.num_passages) == (version or self._newest, len(rows))
        found = store.search(np.ones(DIM), top_k=50, version=version)
        assert sorted(hit.passage_id for hit in found.hits) == sorted(rows)
        snapshot = store.collection("default").snapshot(version)
        order = snapshot.column("passage_id").take(np.flatnonzero(snapshot.live)).to_pylist()
        assert order == list(rows)
        if not rows:
            return
        fetched = store.fetch(list(rows), version=version)
        for (name, seed), passage, memory in zip(
            rows.items(), fetched.passages, fetched.memories, strict=True
        ):
            assert (passage.passage_id, passage.text) == (name, f"{name} {seed}")
            assert np.array_equal(memory.records, _records(name, seed))
        absent = sorted(set(UNIVERSE) - set(rows))
        if absent:
            with pytest.raises(PassageNotFoundError):
                store.fetch(absent[:1], version=version)


class LongCollectionModel(CollectionModel):
    """The same, for the long run."""


TestFewSteps = CollectionModel.TestCase
TestFewSteps.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # a failure is printed as it was found; the long run shrinks its own
)
TestManySteps = pytest.mark.slow(pytest.mark.timeout(1800)(LongCollectionModel.TestCase))
TestManySteps.settings = settings(
    TestFewSteps.settings,
    max_examples=100,
    stateful_step_count=50,
    derandomize=False,
    phases=[Phase.generate, Phase.shrink],
)
