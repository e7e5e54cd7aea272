"""Which version a store answers from, and what it keeps open."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memstore import Passage, Store
from memstore.errors import CollectionNotFoundError, CorruptionError, SnapshotNotFoundError
from memstore.storage import PosixStore
from memstore.storage.manifest import version_key
from memstore.views import Views

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]


def _follower(store: Store) -> Store:
    return Store(PosixStore(store.objects.location), is_followed=True)


def _damage(store: Store, version: int) -> None:
    path = Path(store.objects.location, "default", version_key(version))
    path.write_bytes(path.read_bytes()[:-3])


def test_a_followed_store_answers_from_what_refresh_opened(
    store: Store, make_memories: MakeMemories
) -> None:
    """A request never opens a new version."""
    follower = _follower(store)
    question = np.ones(16, dtype=np.float32)
    first = follower.search(question).version
    store.write(*make_memories(["new#0"]))

    before = follower.search(question).version
    follower.refresh()

    assert (first, before, follower.search(question).version) == (1, 1, 2)


def test_a_followed_store_shows_its_own_writes_at_once(
    store: Store, make_memories: MakeMemories
) -> None:
    """Whoever has written reads what they wrote."""
    follower = _follower(store)

    version = follower.write(*make_memories(["new#0"])).version

    assert follower.fetch(["new#0"]).version == version
    assert follower.delete(document_ids=["new"]).version == follower.collection_info().version


def test_a_damaged_new_version_leaves_the_open_one_answering(
    store: Store, make_memories: MakeMemories
) -> None:
    """The damage is for `refresh` to log; a store that is not followed says it at once."""
    follower = _follower(store)
    question = np.ones(16, dtype=np.float32)
    follower.search(question)
    store.write(*make_memories(["new#0"]))
    _damage(store, 2)

    follower.refresh()

    assert follower.search(question).version == 1
    with pytest.raises(CorruptionError):
        Store(PosixStore(store.objects.location)).search(question)


def test_an_older_version_stays_open_while_it_is_used(
    store: Store, make_memories: MakeMemories
) -> None:
    """The two that were asked for last; the others are closed."""
    for number in range(5):
        store.write(*make_memories([f"new{number}#0"]))
    views = Views(store.objects, is_followed=False)
    views.get("default", None)

    first, second = views.get("default", 1), views.get("default", 2)
    assert views.get("default", 1) is first
    views.get("default", 3)

    assert views.get("default", 1) is first
    assert views.get("default", 2) is not second


def test_a_name_that_is_not_there_is_not_remembered(store: Store) -> None:
    """Callers may ask for any name, and there is no end of names."""
    follower = _follower(store)
    with pytest.raises(CollectionNotFoundError):
        follower.search(np.ones(16), collection="nowhere")

    assert follower._views.names == []


def test_version_0_is_no_version(store: Store) -> None:
    """It is not a way to say the newest."""
    for read in (store.collection_info, store.verify):
        with pytest.raises(SnapshotNotFoundError):
            read("default", 0)


_MANY_SHARDS = """
import resource, sys
import numpy as np
from memstore import Passage, open_store

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import memstore.ingest
memstore.ingest._SHARD_TOKENS = 1
passages = [Passage(document_id=f"d{i}", number=0, text="text") for i in range(200)]
vectors = np.random.default_rng(0).normal(size=(200, 2, 8)).astype(np.float32)
store = open_store(sys.argv[1])
store.write(passages, list(vectors))
print(store.collection_info().num_shards)
"""


def test_more_shards_are_published_than_a_process_may_have_files_open(tmp_path: Path) -> None:
    """Publishing closes each shard before it opens the next."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft > 64

    done = subprocess.run(
        [sys.executable, "-c", _MANY_SHARDS, tmp_path / "store"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.strip() == "200", done.stderr
