"""A disk without space: a write fails and publishes nothing, and works once there is room."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memstore import Store, open_store
from memstore.errors import StorageFullError
from memstore.types import Passage

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]
PAGE_BYTES = 4096
SCRIPT = Path(__file__).parent / "limited_writes.py"


def _leave(disk: Path, num_pages: int) -> None:
    """Fill the disk up to so many free pages."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(bytes(max(0, free - num_pages * PAGE_BYTES)))


@pytest.fixture
def full(disk: Path, written_folder: Path) -> Store:
    """A store of 12 passages on the small disk."""
    return open_store(shutil.copytree(written_folder, disk / "store"))


def _many(make_memories: MakeMemories) -> tuple[list[Passage], list[np.ndarray]]:
    return make_memories(f"d#{number}" for number in range(400))


def test_a_write_without_space_publishes_nothing(
    full: Store, disk: Path, make_memories: MakeMemories
) -> None:
    """The old version stays readable, and nothing half-written is left."""
    _leave(disk, 3)
    before = set(full.objects.list(""))

    with pytest.raises(
        StorageFullError, match=r"no space left while writing .*shards/.*free space"
    ):
        full.write(*_many(make_memories))

    assert set(full.objects.list("")) - before == set()
    fresh = open_store(full.objects.location)
    assert [info.version for info in fresh.versions()] == [1]
    assert len(fresh.query(np.ones(16), top_k=12).memories) == 12
    assert fresh.verify().problems == ()


def test_the_same_write_works_when_there_is_space(
    full: Store, disk: Path, make_memories: MakeMemories
) -> None:
    """The store needs no repair."""
    _leave(disk, 3)
    with pytest.raises(StorageFullError):
        full.write(*_many(make_memories))
    (disk / "filler").unlink()

    assert full.write(*_many(make_memories)).version == 2
    assert len(full.fetch(["a#0", "d#399"]).memories) == 2
    assert full.verify().problems == ()


def test_space_may_run_out_at_any_step(
    full: Store, disk: Path, make_memories: MakeMemories
) -> None:
    """With one page more each time: a write fails as a whole or is there as a whole."""
    written = []
    for num_pages in range(24):
        _leave(disk, num_pages)
        try:
            written.append(full.write(*make_memories([f"d#{num_pages}"])).version)
        except StorageFullError:
            written.append(0)
        fresh = open_store(full.objects.location)
        assert fresh.collection_info().version == max(1, *written)
        assert fresh.verify().problems == ()

    made = [version for version in written if version]
    assert made == list(range(2, len(made) + 2))
    assert written[0] == 0
    assert 0 < len(made) < 24
    names = [f"d#{number}" for number, version in enumerate(written) if version]
    assert len(open_store(full.objects.location).fetch(names).memories) == len(made)


def test_a_delete_without_space_deletes_nothing(full: Store, disk: Path) -> None:
    """Nor does it fail halfway."""
    _leave(disk, 0)

    with pytest.raises(StorageFullError):
        full.delete(document_ids=["a"])
    assert full.collection_info().num_passages == 12

    _leave(disk, 16)
    assert full.delete(document_ids=["a"]).num_deleted == 4


@pytest.mark.parametrize("limit_bytes", [0, 100_000])
def test_a_limit_on_files_is_no_space_too(store: Store, limit_bytes: int) -> None:
    """Where no disk can be made small: the process may not write large files."""
    answer = subprocess.run(
        [sys.executable, str(SCRIPT), store.objects.location, str(limit_bytes)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    report = json.loads(answer.stdout)
    assert report.pop("error").startswith("STORAGE_FULL: no space left while writing")
    assert report == {
        "version": 1,
        "num_passages": 12,
        "fetched": 2,
        "temps": [],
        "problems": [],
        "version_after": 2,
    }
