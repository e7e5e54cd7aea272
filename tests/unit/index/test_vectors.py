"""The vector index: exact for few rows, an inverted file for many, and disposable always."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memstore import ProductCodec, Store
from memstore.index import VectorIndex, open_index, vectors
from memstore.storage import Collection, Snapshot
from memstore.types import Passage

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]
NUM_ROWS = 400


@pytest.fixture(scope="module")
def many(
    tmp_path_factory: pytest.TempPathFactory, make_memories: MakeMemories, codec: ProductCodec
) -> Store:
    """400 passages in one shard, with random directions; not to be changed."""
    store = Store(vectors_store(tmp_path_factory.mktemp("many")))
    write(store, make_memories, codec, 0, NUM_ROWS)
    return store


def vectors_store(folder: Path) -> object:
    raise NotImplementedError
