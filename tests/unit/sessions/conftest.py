"""A tiny model and stores of its sessions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memstore import ProductCodec
from memstore.sessions import SessionModel, SessionStore, train_queue_codec
from memstore.storage import PosixStore
from tests.tiny_sessions import make_session_model, make_text


class Clock:
    """A clock that stands still until it is told the time."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        return self.now


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> SessionModel:
    """A model of windows of 8 words and a queue of 4 windows, in float64."""
    return make_session_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def codec(model: SessionModel) -> ProductCodec:
    """A codec for the model's queue: 4 subspaces of 16 centroids."""
    return train_queue_codec(model, [make_text(4000, seed=9)], num_subspaces=4, codebook_size=16)


@pytest.fixture
def clock() -> Clock:
    """The time of every store of the test."""
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the sessions."""
    return tmp_path / "sessions"


@pytest.fixture
def open_store(root: Path, model: SessionModel, clock: Clock) -> Callable[..., SessionStore]:
    """Return `open_store(**options)`: another process's view of the same sessions, in effect."""
    return lambda **options: SessionStore(PosixStore(root), model, clock=clock, **options)


@pytest.fixture
def store(open_store: Callable[..., SessionStore]) -> SessionStore:
    """A store with an empty session `s`."""
    store = open_store()
    store.create("s")
    return store
