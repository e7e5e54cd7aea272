"""Small memories that are cheap to write and easy to compare, for every test that needs a store."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from memstore import ProductCodec, Store, open_store
from memstore.storage import Collection
from memstore.types import Passage

DIM = 16
MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]


def _memory(name: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    return rng.standard_normal((2 + int(rng.integers(4)), DIM)).astype(np.float32)


def _passage(name: str, seed: int) -> Passage:
    document_id, number = name.rsplit("#", 1)
    position = int(number)
    return Passage(
        document_id=document_id,
        number=position,
        title=f"title of {document_id}",
        text=f"text {seed} of {name}: naïve café",
        start=10 * position,
        end=10 * position + 9,
        metadata={"year": 2000 + position, "lang": "de" if position % 2 else "en", "seed": seed},
    )


@pytest.fixture(scope="session")
def make_memories() -> MakeMemories:
    """Return `make(passage_ids, seed=0)`: passages with their (2..5, 16) float32 memories.

    Each depends on its own id and the seed alone; the number in the id decides the metadata.
    """

    def make(
        passage_ids: Iterable[str], *, seed: int = 0
    ) -> tuple[list[Passage], list[np.ndarray]]:
        names = list(passage_ids)
        return [_passage(name, seed) for name in names], [_memory(name, seed) for name in names]

    return make


@pytest.fixture(scope="session")
def codec() -> ProductCodec:
    """A codec for vectors of width 16: 4 subspaces of 16 centroids, so 2 words a record."""
    vectors = np.random.default_rng(0).standard_normal((400, DIM)).astype(np.float32)
    return ProductCodec.train(vectors, num_subspaces=4, codebook_size=16, seed=0)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """Return `make(name="store", **options)`: a store in a folder of this test; the same name opens
    it afresh.
    """
    return lambda name="store", **options: open_store(tmp_path / name, **options)


@pytest.fixture(scope="session")
def written_folder(
    tmp_path_factory: pytest.TempPathFactory, make_memories: MakeMemories, codec: ProductCodec
) -> Path:
    """The folder that `store` copies; not to be changed."""
    folder = tmp_path_factory.mktemp("written") / "store"
    passages, memories = make_memories(f"{name}#{i}" for name in "abc" for i in range(4))
    open_store(folder).write(passages, memories, codec=codec)
    return folder


@pytest.fixture
def store(make_store: Callable[..., Store], tmp_path: Path, written_folder: Path) -> Store:
    """A store whose collection `default` has version 1: passages 0 to 3 of documents a, b and c."""
    shutil.copytree(written_folder, tmp_path / "store")
    return make_store()


@pytest.fixture
def collection(store: Store) -> Collection:
    """The storage of `store`'s collection."""
    return store.collection("default")
