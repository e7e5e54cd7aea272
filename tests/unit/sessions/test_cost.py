"""What an append costs: bytes by what it appends, objects by the logarithm of the queue."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from memstore.errors import CorruptionError
from memstore.sessions import SessionModel, SessionStore
from memstore.sessions.content import EMPTY, Window, plan_pieces
from memstore.sessions.record import Piece
from memstore.storage import PosixStore
from memstore.storage.objects import Buffer
from tests.tiny_sessions import WINDOW, make_session_model, make_text

OpenStore = Callable[..., SessionStore]


class Counting(PosixStore):
    """A folder that adds up what is put."""

    num_bytes = 0

    def put(self, key: str, data: Buffer) -> bool:
        """As a folder."""
        self.num_bytes += len(data)
        return super().put(key, data)


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> SessionModel:
    """A model with a queue of 128 windows."""
    return make_session_model(tmp_path_factory.mktemp("long"), queue_windows=128)


def test_what_is_kept_at_hand_is_what_is_counted(long_model: SessionModel) -> None:
    """A window of the queue owns its rows: as a view it would keep all that was read with it."""
    rows = long_model.row_format(None)
    content = EMPTY
    for seed in range(3):
        tokens = long_model.tokenize(make_text(5 * WINDOW, seed=seed))
        content = long_model.advance(content, tokens, rows)
    arrays = [content.short, content.tail, *(window.rows for window in content.windows)]
    assert all(array.base is None for array in arrays)


def test_an_append_within_a_window_writes_no_memory(
    model: SessionModel, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it run the model: the tail alone is written."""
    objects = Counting(root)
    store = SessionStore(objects, model)
    store.create("s")
    store.append("s", make_text(33))
    with_windows, objects.num_bytes = objects.num_bytes, 0
    monkeypatch.delattr("memstore.models.melodi_stack.MelodiStack.read")

    for word in ("sea ", "ship ", "salt "):
        store.append("s", word)
    assert objects.num_bytes / 3 < with_windows / 4


def test_what_windows_cost_does_not_grow_with_the_session(
    long_model: SessionModel, root: Path
) -> None:
    """A window at a time: each is written at most log2 Q times, beside the short-term memories,
    long after the queue is full; and a session lies in a handful of objects.
    """
    objects = Counting(root)
    store = SessionStore(objects, long_model)
    store.create("s")
    store.append("s", make_text(1))
    window_bytes = 3 * 16 * 8
    short_bytes = 4 * 5 * 16 * 8
    written = []
    for number in range(300):
        objects.num_bytes = 0
        store.append("s", make_text(WINDOW, seed=number))
        written.append(objects.num_bytes)
        assert len(list((root / "s").iterdir())) <= math.log2(128) + 2

    overhead = 3000  # header, tail, and texts
    for part in (written[:128], written[128:256]):
        assert sum(part) / 128 < 2 * short_bytes + 8 * window_bytes + overhead
    assert store.info("s").num_bytes < 2 * 128 * window_bytes + 4 * (short_bytes + overhead)


@pytest.mark.parametrize("num_free", [0, 6, 200])
@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 200])
def test_pieces_always_hold_the_queue_and_stay_few(step: int, num_free: int) -> None:
    """However many windows come at a time: the pieces and what is written are its latest windows;
    each piece is at least twice as large as the next, and larger than the short-term memories.
    """
    window = Window("", np.zeros((1, 10), np.uint8))
    short = np.zeros(10 * num_free, np.uint8)
    num_read = 0
    pieces: tuple[Piece, ...] = ()
    for version in range(1, 400):
        num_read += step
        kept = min(num_read, 128)
        content = replace(EMPTY, short=short, windows=(window,) * kept)
        pieces, num_own = plan_pieces(pieces, step, content)
        own = Piece(version=version, commit_id="", num_windows=num_own, num_bytes=0)
        sizes = [piece.num_windows for piece in (*pieces, own)]
        assert sum(sizes) >= kept
        assert sum(sizes[1:]) < kept
        assert all(large >= 2 * small + num_free for large, small in pairwise(sizes))
        pieces = (*pieces, own)


def test_an_append_without_windows_keeps_the_pieces() -> None:
    """It writes none."""
    piece = Piece(version=3, commit_id="", num_windows=4, num_bytes=0)
    assert plan_pieces((piece,), 0, EMPTY) == ((piece,), 0)


def test_a_fork_is_one_object(store: SessionStore, open_store: OpenStore, root: Path) -> None:
    """It owes nothing to its origin."""
    for seed in range(4):
        store.append("s", make_text(9, seed=seed))
    store.fork("s", "t")
    wanted = store.windows("s")
    store.remove("s")

    assert len(list((root / "t").iterdir())) == 1
    assert open_store().windows("t") == wanted


def test_a_part_that_is_missing_is_corruption(long_model: SessionModel, root: Path) -> None:
    """And not waited for: the version that is made of it is still the newest."""
    store = SessionStore(PosixStore(root), long_model)
    store.create("s")
    store.append("s", make_text(100 * WINDOW + 1))
    store.append("s", make_text(WINDOW))
    first, *_ = parts = sorted((root / "s").glob("*.session"))
    assert len(parts) > 1
    first.unlink()

    with pytest.raises(CorruptionError, match="or remove the session"):
        SessionStore(PosixStore(root), long_model).state("s")
