"""Writers that race, and answers that are lost: nothing is published twice or in silence."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore import Store, open_store
from memstore.errors import (
    AlreadyExistsError,
    CommitConflictError,
    CommitUnknownError,
    MemstoreError,
    StorageError,
    StorageFullError,
)
from memstore.storage import PosixStore, commit
from memstore.types import CommitResult, Passage

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]
FIRST = 12  # passages in version 1 of the `store` fixture


def _folder(store: Store) -> str:
    return store.objects.location


def _assert_nothing_lost(folder: str, ids_by_version: dict[int, str]) -> None:
    """Every acknowledged commit is one version, and each version adds its passage to the last."""
    store = open_store(folder)
    versions = store.versions()
    assert [info.version for info in versions] == list(range(1, len(ids_by_version) + 2))
    assert sorted(ids_by_version) == list(range(2, len(ids_by_version) + 2))
    for version, passage_id in ids_by_version.items():
        info = versions[version - 1]
        assert info.num_passages == FIRST + version - 1
        assert store.fetch([passage_id], version=version).version == version
    assert len(store.fetch(sorted(ids_by_version.values())).passages) == len(ids_by_version)
    assert store.verify().problems == ()


def test_threads_that_append_lose_nothing(store: Store, make_memories: MakeMemories) -> None:
    """Each through a store of its own: versions are dense, and every append is in one."""
    barrier = threading.Barrier(6)

    def work(name: str) -> list[tuple[int, str]]:
        mine = open_store(_folder(store))
        barrier.wait()
        ids = [f"{name}#{number}" for number in range(4)]
        return [(mine.write(*make_memories([each])).version, each) for each in ids]

    with ThreadPoolExecutor(6) as pool:
        made = [pair for pairs in pool.map(work, "uvwxyz") for pair in pairs]

    assert len(made) == 24
    _assert_nothing_lost(_folder(store), dict(made))


def test_threads_of_one_store_lose_nothing(store: Store, make_memories: MakeMemories) -> None:
    """A store is safe to use from many threads, for writing too."""
    barrier = threading.Barrier(6)

    def work(name: str) -> tuple[int, str]:
        barrier.wait()
        return store.write(*make_memories([f"{name}#0"])).version, f"{name}#0"

    with ThreadPoolExecutor(6) as pool:
        _assert_nothing_lost(_folder(store), dict(pool.map(work, "uvwxyz")))


def test_processes_that_append_lose_nothing(store: Store) -> None:
    """Two at once, and only the file system between them."""
    script = Path(__file__).parent / "append_process.py"
    root = Path(__file__).parents[2]
    names = "xy"
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), _folder(store), name, "5"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        )
        for name in names
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0].split() for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    made = {
        int(version): f"{name}#{number}"
        for name, versions in zip(names, answers, strict=True)
        for number, version in enumerate(versions)
    }
    assert len(made) == 10
    _assert_nothing_lost(_folder(store), made)


def test_racing_upserts_win_or_conflict(store: Store, make_memories: MakeMemories) -> None:
    """Each upsert that was acknowledged is a version of its own; the rest are told so."""
    barrier = threading.Barrier(8)

    def work(seed: int) -> int | None:
        mine = open_store(_folder(store))
        passages, memories = make_memories(["a#0"], seed=seed)
        barrier.wait()
        try:
            return mine.write(passages, memories, mode="upsert").version
        except CommitConflictError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = {version: seed for seed, version in enumerate(pool.map(work, range(8))) if version}

    assert sorted(made) == list(range(2, len(made) + 2))
    assert [info.version for info in store.versions()] == list(range(1, len(made) + 2))
    for version, seed in made.items():
        assert store.fetch(["a#0"], version=version).passages[0].metadata["seed"] == seed
        assert store.collection_info(version=version).num_passages == FIRST


def _is_version(key: str) -> bool:
    return "/versions/" in key


class InterruptedStore(PosixStore):
    """Runs something just before a version is put, the first time or every time."""

    def __init__(self, root: str, before_commit: Callable[[], object], times: int = 1) -> None:
        super().__init__(root)
        self._before_commit, self._times = before_commit, times

    def put(self, key: str, data: bytes | memoryview) -> bool:
        """Let another writer be faster."""
        if _is_version(key) and self._times:
            self._times -= 1
            self._before_commit()
        return super().put(key, data)


@pytest.fixture
def overtaken(
    store: Store, make_memories: MakeMemories, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Store]:
    """Return `make(times)`: a store that is overtaken by an append of `d#0`, `d#1` … so often."""
    monkeypatch.setattr(commit, "_FIRST_PAUSE_S", 0.0)
    names = iter(f"d#{number}" for number in range(100))

    def append() -> None:
        open_store(_folder(store)).write(*make_memories([next(names)]))

    return lambda times=1: Store(InterruptedStore(_folder(store), append, times))


def test_an_append_is_rebuilt_on_the_winner(
    overtaken: Callable[..., Store], make_memories: MakeMemories
) -> None:
    """As often as need be: both are in the collection."""
    store = overtaken(5)

    result = store.write(*make_memories(["e#0"]))

    assert (result.version, result.num_added) == (7, 1)
    assert store.collection_info().num_passages == FIRST + 6
    assert len(store.fetch([f"d#{number}" for number in range(5)] + ["e#0"]).passages) == 6


def test_an_append_of_what_the_winner_brought_is_refused(
    overtaken: Callable[..., Store], make_memories: MakeMemories
) -> None:
    """The ids are checked again on the new base."""
    with pytest.raises(AlreadyExistsError, match="'d#0'"):
        overtaken().write(*make_memories(["e#0", "d#0"]))


def test_an_append_gives_up_at_last(
    overtaken: Callable[..., Store], make_memories: MakeMemories
) -> None:
    """With an error that may be retried."""
    with pytest.raises(CommitConflictError, match="20 commits in a row lost the race") as caught:
        overtaken(99).write(*make_memories(["e#0"]))
    assert caught.value.retryable


CHANGES: dict[str, Callable[[Store, MakeMemories], CommitResult]] = {
    "upsert": lambda store, make: store.write(*make(["a#0"], seed=1), mode="upsert"),
    "replace": lambda store, make: store.write(*make(["a#0"], seed=1), mode="replace"),
    "delete": lambda store, make: store.delete(document_ids=["a"]),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_any_other_change_conflicts_loudly(
    overtaken: Callable[..., Store], make_memories: MakeMemories, change: str
) -> None:
    """What it was to change is not what is there now; the winner's version stands."""
    store = overtaken()

    with pytest.raises(CommitConflictError, match="another writer made version 2; read it and try"):
        CHANGES[change](store, make_memories)

    assert store.collection_info().version == 2
    assert store.collection_info().num_passages == FIRST + 1
    assert CHANGES[change](store, make_memories).version == 3


class LosingStore(PosixStore):
    """Fails to answer when a version is put, once.

    Args:
        root: the folder.
        error: what the caller gets instead of an answer.
        is_applied: whether the version was made all the same.
        is_deaf: whether reading fails from then on.
    """

    def __init__(
        self, root: str, error: type[MemstoreError], *, is_applied: bool, is_deaf: bool = False
    ) -> None:
        super().__init__(root)
        self._error: type[MemstoreError] | None = error
        self._is_applied, self._is_deaf = is_applied, is_deaf
        self._has_failed = False

    def put(self, key: str, data: bytes | memoryview) -> bool:
        """Lose the first answer about a version."""
        if self._error is None or not _is_version(key):
            return super().put(key, data)
        if self._is_applied:
            super().put(key, data)
        error, self._error = self._error, None
        self._has_failed = True
        raise error("connection reset")

    def get(self, key: str) -> bytes:
        """Fail after the first failure, if deaf."""
        if self._is_deaf and self._has_failed:
            raise StorageError("connection refused")
        return super().get(key)


def _changes() -> dict[str, Callable[[Store, MakeMemories], CommitResult]]:
    return {"append": lambda store, make: store.write(*make(["e#0"])), **CHANGES}


def _names(folder: str) -> set[str]:
    return set(PosixStore(folder).list(""))


@pytest.mark.parametrize("error", [StorageError, StorageFullError])
@pytest.mark.parametrize("change", sorted(_changes()))
def test_a_commit_whose_answer_was_lost_is_recognized(
    store: Store, make_memories: MakeMemories, change: str, error: type[MemstoreError]
) -> None:
    """The version is there and carries our commit id: that is success, and no second version."""
    losing = Store(LosingStore(_folder(store), error, is_applied=True))

    assert _changes()[change](losing, make_memories).version == 2
    assert store.collection("default").versions() == [1, 2]


@pytest.mark.parametrize("error", [StorageError, StorageFullError])
@pytest.mark.parametrize("change", sorted(_changes()))
def test_a_commit_that_was_lost_is_not_published(
    store: Store, make_memories: MakeMemories, change: str, error: type[MemstoreError]
) -> None:
    """The version is not there: the failure is the caller's, who may try again."""
    losing = Store(LosingStore(_folder(store), error, is_applied=False))

    with pytest.raises(error, match="connection reset"):
        _changes()[change](losing, make_memories)

    assert store.collection("default").versions() == [1]
    assert _changes()[change](losing, make_memories).version == 2


@pytest.mark.parametrize("is_applied", [False, True])
@pytest.mark.parametrize("change", sorted(_changes()))
def test_a_commit_that_cannot_be_read_back_is_unknown(
    store: Store, make_memories: MakeMemories, change: str, is_applied: bool
) -> None:
    """The caller must look before trying again; nothing is deleted, so either outcome is whole."""
    losing = Store(LosingStore(_folder(store), StorageError, is_applied=is_applied, is_deaf=True))
    before = _names(_folder(store))

    with pytest.raises(CommitUnknownError, match=r"versions/0+2.json: .* before trying again"):
        _changes()[change](losing, make_memories)

    assert before <= _names(_folder(store))
    fresh = open_store(_folder(store))
    assert [info.version for info in fresh.versions()] == ([1, 2] if is_applied else [1])
    assert fresh.verify().problems == ()


class OvertakenAndLost(LosingStore):
    """Another writer makes the version, and our own answer is lost as well."""

    def __init__(self, root: str, other: Callable[[], Any]) -> None:
        super().__init__(root, StorageError, is_applied=False)
        self._other = other

    def put(self, key: str, data: bytes | memoryview) -> bool:
        """Let the other commit first."""
        if _is_version(key) and not self._has_failed:
            self._other()
        return super().put(key, data)


def test_anothers_version_is_not_taken_for_ours(
    store: Store, make_memories: MakeMemories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost answer and a version that is there: its commit id says whose it is."""
    monkeypatch.setattr(commit, "_FIRST_PAUSE_S", 0.0)
    other = open_store(_folder(store))
    objects = OvertakenAndLost(_folder(store), lambda: other.write(*make_memories(["d#0"])))

    result = Store(objects).write(*make_memories(["e#0"]))

    assert result.version == 3
    assert len(store.fetch(["d#0", "e#0"]).passages) == 2
