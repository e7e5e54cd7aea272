"""A disk without space: a session is not changed, and is once there is room."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from memstore.errors import StorageFullError
from memstore.sessions import SessionModel, SessionStore
from memstore.storage import PosixStore
from tests.tiny_sessions import make_session_model, make_text

PAGE_BYTES = 4096


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SessionModel:
    """A tiny model."""
    return make_session_model(tmp_path_factory.mktemp("model"))


def _leave(disk: Path, num_pages: int) -> None:
    """Fill the disk up to so many free pages."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(bytes(max(0, free - num_pages * PAGE_BYTES)))


@contextlib.contextmanager
def _files_of_at_most(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_space_may_run_out_at_any_step(disk: Path, model: SessionModel) -> None:
    """With one page more each time: an append fails as a whole or is there as a whole."""
    sessions = SessionStore(PosixStore(disk / "sessions"), model)
    sessions.create("s")
    sessions.append("s", make_text(30))
    outcomes = []
    for num_pages in range(8):
        _leave(disk, num_pages)
        before = sessions.windows("s")
        try:
            sessions.append("s", make_text(20, seed=num_pages))
            outcomes.append(True)
        except StorageFullError:
            outcomes.append(False)
        fresh = SessionStore(PosixStore(disk / "sessions"), model)
        assert fresh.windows("s") == sessions.windows("s")
        assert (sessions.windows("s") != before) == outcomes[-1]
        assert not list((disk / "sessions").rglob(".tmp-*"))
    assert outcomes[0] is False
    assert outcomes[-1] is True


def test_a_limit_on_files_is_no_space_too(tmp_path: Path, model: SessionModel) -> None:
    """Appends, continuations, forks and new sessions are refused; then they work."""
    sessions = SessionStore(PosixStore(tmp_path), model)
    sessions.create("s")
    before = sessions.append("s", make_text(30))
    with _files_of_at_most(100):
        for change in (
            lambda: sessions.append("s", make_text(20)),
            lambda: sessions.generate("s"),
            lambda: sessions.fork("s", "t"),
            lambda: sessions.create("t"),
            lambda: sessions.remove("s"),
        ):
            with pytest.raises(StorageFullError, match="no space left while writing"):
                change()

    assert SessionStore(PosixStore(tmp_path), model).list() == [before]
    assert not list(tmp_path.rglob(".tmp-*"))
    assert sessions.append("s", make_text(20)).num_tokens == 50
