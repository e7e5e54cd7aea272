"""Commits of sessions: races, lost answers, writers that sleep, and what is deleted when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memstore.errors import (
    CommitConflictError,
    CommitUnknownError,
    CorruptionError,
    StorageError,
    StorageFullError,
)
from memstore.sessions import SessionModel, SessionStore
from memstore.sessions.record import Header, descend
from memstore.sessions.versions import Versions
from memstore.storage import PosixStore
from memstore.storage.objects import Buffer
from tests.tiny_sessions import make_text

OpenStore = Callable[..., SessionStore]
FIRST = Header(
    session_id="s",
    version=1,
    commit_id="c1",
    ancestors=(),
    created_at="2027-01-15T08:00:00.000000+00:00",
    updated_at="2027-01-15T08:00:00.000000+00:00",
    model_id="m",
    codec_id="",
)


class Failing(PosixStore):
    """A folder whose calls fail when told to.

    Attributes:
        lose: the next put is done, and its answer lost.
        fail: the next put is not done.
        blind: listings fail.
        keep: deletions fail.
        meanwhile: done once before the next put.
    """

    lose = fail = blind = keep = False
    meanwhile: Callable[[], object] | None = None

    def put(self, key: str, data: Buffer) -> bool:
        """As told."""
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        if self.fail:
            raise StorageError("the medium failed", object=key)
        is_created = super().put(key, data)
        if self.lose:
            raise StorageError("the answer was lost", object=key)
        return is_created

    def list(self, prefix: str) -> Iterator[str]:
        """As told."""
        if self.blind:
            raise StorageError("cannot be listed", object=prefix)
        return super().list(prefix)

    def delete(self, key: str) -> None:
        """As told."""
        if self.keep:
            raise StorageError("cannot be deleted", object=key)
        super().delete(key)


@pytest.fixture
def objects(root: Path) -> Failing:
    """The sessions' folder, with the first version of `s`."""
    objects = Failing(root)
    Versions(objects).commit(FIRST, {})
    return objects


@pytest.fixture
def versions(objects: Failing) -> Versions:
    """The sessions in it."""
    return Versions(objects)


def _after(header: Header, commit_id: str, number: int = 1) -> Header:
    """Return a version so many after this one; those between are `between<n>`."""
    for version in range(header.version + 1, header.version + number):
        header = _next(header, f"between{version}")
    return _next(header, commit_id)


def _next(header: Header, commit_id: str) -> Header:
    return replace(
        header, version=header.version + 1, commit_id=commit_id, ancestors=descend(header)
    )


def test_of_two_writers_the_first_wins(versions: Versions) -> None:
    """The other is told, and what the first wrote stays."""
    versions.commit(_next(FIRST, "mine"), {})

    with pytest.raises(CommitConflictError, match="another writer made version 2"):
        versions.commit(_next(FIRST, "theirs"), {})
    assert versions.open_newest("s").header.commit_id == "mine"


def test_a_commit_deletes_what_it_is_not_made_of(versions: Versions, root: Path) -> None:
    """One object is left of a session whose versions each stand alone."""
    versions.commit(_next(FIRST, "b"), {})

    assert [path.name for path in (root / "s").iterdir()] == ["00000000000000000002.session"]


@pytest.mark.parametrize("num_others", [2, 3, 10])
def test_a_writer_that_sleeps_through_commits_is_told(
    versions: Versions, objects: Failing, num_others: int
) -> None:
    """The name that it creates had been used and freed: its version is none."""

    def others() -> None:
        header = FIRST
        for number in range(num_others):
            header = _next(header, f"other{number}")
            Versions(PosixStore(objects.location)).commit(header, {})

    objects.meanwhile = others
    with pytest.raises(CommitConflictError):
        versions.commit(_next(FIRST, "late"), {})
    assert versions.open_newest("s").header.commit_id == f"other{num_others - 1}"


def test_a_writer_that_cannot_know_says_so(versions: Versions, objects: Failing) -> None:
    """After more commits of others than a version remembers."""
    objects.meanwhile = lambda: Versions(PosixStore(objects.location)).commit(
        _after(FIRST, "far", 20), {}
    )
    with pytest.raises(CommitUnknownError, match="19 versions have been made since"):
        versions.commit(_next(FIRST, "late"), {})


def test_a_lost_answer_is_settled_by_reading_back(versions: Versions, objects: Failing) -> None:
    """The commit is there: it is reported as done."""
    objects.lose = True
    versions.commit(_next(FIRST, "mine"), {})

    assert versions.open_newest("s").header.commit_id == "mine"


def test_a_lost_answer_is_settled_even_when_others_went_on(
    versions: Versions, objects: Failing
) -> None:
    """Three versions later it is still known for an ancestor."""
    mine = _next(FIRST, "mine")
    objects.put(f"s/{mine.version:020d}.session", b"")  # the first try, whose answer was lost
    PosixStore(objects.location).delete(f"s/{mine.version:020d}.session")
    objects.meanwhile = lambda: Versions(PosixStore(objects.location)).commit(
        _after(mine, "later", 3), {}
    )

    versions.commit(mine, {})
    assert versions.open_newest("s").header.commit_id == "later"


def test_a_put_that_fails_commits_nothing(versions: Versions, objects: Failing) -> None:
    """The error is the medium's, and the same commit works later."""
    objects.fail = True
    with pytest.raises(StorageError, match="the medium failed"):
        versions.commit(_next(FIRST, "mine"), {})
    objects.fail = False
    assert versions.newest("s") == 1
    versions.commit(_next(FIRST, "mine"), {})


def test_what_cannot_be_read_back_is_unknown(versions: Versions, objects: Failing) -> None:
    """The put may have been done; nothing is deleted."""
    objects.blind = True
    with pytest.raises(CommitUnknownError, match="cannot be listed"):
        versions.commit(_next(FIRST, "mine"), {})
    objects.blind = False
    assert versions.newest("s") == 2


def test_a_deletion_that_fails_does_not_undo_the_commit(
    versions: Versions, objects: Failing, root: Path
) -> None:
    """The next one does it."""
    second = _next(FIRST, "b")
    objects.keep = True
    versions.commit(second, {})
    assert len(list((root / "s").iterdir())) == 2

    objects.keep = False
    versions.commit(_next(second, "c"), {})
    assert [path.name for path in (root / "s").iterdir()] == ["00000000000000000003.session"]


def test_an_append_that_loses_leaves_the_session_to_the_winner(
    model: SessionModel, root: Path
) -> None:
    """Through the whole store: told, and able to go on from what the winner wrote."""
    objects = Failing(root)
    late, quick = SessionStore(objects, model), SessionStore(PosixStore(root), model)
    quick.create("s")
    objects.meanwhile = lambda: [quick.append("s", make_text(30, seed=n)) for n in range(3)]

    with pytest.raises(CommitConflictError):
        late.append("s", "sea")
    assert late.info("s").num_tokens == 90
    assert late.append("s", "sea").num_tokens == 91
    assert late.windows("s") == SessionStore(PosixStore(root), model).windows("s")


def test_a_full_disk_appends_nothing(store: SessionStore, model: SessionModel, root: Path) -> None:
    """As if the call had not been made; it works when there is space."""
    store.append("s", make_text(20))
    objects = Failing(root)
    full = SessionStore(objects, model)

    def no_space() -> None:
        raise StorageFullError("no space left", object="s")

    objects.meanwhile = no_space
    with pytest.raises(StorageFullError):
        full.append("s", make_text(20))
    assert full.windows("s") == store.windows("s")
    assert full.append("s", make_text(20)).num_tokens == 40


def test_a_piece_that_is_gone_is_named(
    open_store: OpenStore, store: SessionStore, root: Path
) -> None:
    """Nobody deletes what the newest version is made of: it is damage."""
    store.append("s", make_text(17))
    store.append("s", make_text(3))
    (root / "s" / "00000000000000000002.session").unlink()

    with pytest.raises(CorruptionError, match=r"0002\.session: no such object"):
        open_store().append("s", "sea")
    assert open_store().info("s").version == 3


def test_a_reader_meets_commits_in_its_way(
    open_store: OpenStore, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look and its reading, another has gone on and deleted: it looks again."""
    store.append("s", make_text(20))
    reader, open_object = open_store(), PosixStore.open
    is_first = True

    def late_open(self: PosixStore, key: str) -> object:
        nonlocal is_first
        if is_first:
            is_first = False
            store.append("s", make_text(40, seed=1))
        return open_object(self, key)

    monkeypatch.setattr(PosixStore, "open", late_open)
    assert reader.windows("s") == store.windows("s")
