"""The vector index: exact for few rows, an inverted file for many, and disposable always."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore import ProductCodec, Store, open_store
from memstore.errors import StorageError
from memstore.index import VectorIndex, open_index, vectors
from memstore.storage import Collection, Snapshot
from memstore.types import Passage

MakeMemories = Callable[..., tuple[list[Passage], list[np.ndarray]]]
NUM_ROWS = 400


@pytest.fixture(scope="module")
def many_folder(
    tmp_path_factory: pytest.TempPathFactory, make_memories: MakeMemories, codec: ProductCodec
) -> Path:
    """A store of 400 passages in one shard; not to be changed."""
    folder = tmp_path_factory.mktemp("many") / "store"
    open_store(folder).write(*make_memories(f"a#{i}" for i in range(NUM_ROWS)), codec=codec)
    return folder


@pytest.fixture
def many(many_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy for one test, in which 200 rows are enough for an inverted file and 20 allowed rows
    are few. All its lists are probed, so that it misses nothing.
    """
    monkeypatch.setattr(vectors, "IVF_ROWS", NUM_ROWS // 2)
    monkeypatch.setattr(vectors, "_EXACT_ROWS", 20)
    monkeypatch.setattr(vectors, "_NPROBE_SHARE", 1.0)
    return open_store(shutil.copytree(many_folder, tmp_path / "many"))


def _opened(store: Store) -> tuple[Snapshot, VectorIndex]:
    collection = Collection(store.objects, "default")
    snapshot = collection.snapshot()
    return snapshot, open_index(collection, snapshot)


def _files(store: Store) -> dict[str, bytes]:
    return {key: store.objects.get(key) for key in store.objects.list("default/index/")}


def _brute_force(
    snapshot: Snapshot, question: np.ndarray, top_k: int, allowed: np.ndarray | None = None
) -> tuple[list[int], np.ndarray]:
    scores = snapshot.embeddings().astype(np.float32) @ question
    rows = [int(row) for row in np.argsort(-scores, kind="stable")]
    best = [row for row in rows if allowed is None or allowed[row]][:top_k]
    return best, scores[best]


def _question(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(16).astype(np.float32)


def _assert_exact(
    snapshot: Snapshot, index: VectorIndex, allowed: np.ndarray | None = None, top_k: int = 10
) -> None:
    for seed in range(5):
        rows, scores = index.search(_question(seed), top_k, allowed)
        wanted, wanted_scores = _brute_force(snapshot, _question(seed), top_k, allowed)
        assert rows.tolist() == wanted
        np.testing.assert_allclose(scores, wanted_scores, rtol=1e-5, atol=1e-6)


def _masks() -> list[np.ndarray]:
    rows = np.arange(NUM_ROWS)
    return [rows % 3 == 0, rows >= 395, rows == 7, rows < 0, rows >= 0]


def test_few_rows_are_searched_exactly(store: Store) -> None:
    """No index is stored; more than there is cannot be returned."""
    snapshot, index = _opened(store)

    assert index.kind == "exact"
    _assert_exact(snapshot, index)
    _assert_exact(snapshot, index, top_k=1000)
    assert _files(store) == {}


def test_only_allowed_rows_are_returned_by_an_exact_search(store: Store) -> None:
    """Some, one, none."""
    snapshot, index = _opened(store)
    rows = np.arange(12)

    for allowed in (rows % 2 == 0, rows == 11, rows < 0):
        _assert_exact(snapshot, index, allowed)


def test_ties_go_to_the_lower_row(make_store: Callable[..., Store], codec: ProductCodec) -> None:
    """Where the cut falls inside them, too."""
    store = make_store()
    passages = [Passage(document_id="a", number=i, text="") for i in range(40)]
    memories = [np.ones((1, 16), dtype=np.float32)] * 40
    store.write(passages, memories, codec=codec)

    rows, scores = _opened(store)[1].search(_question(), 7)

    assert rows.tolist() == list(range(7))
    assert len(set(scores.tolist())) == 1


def test_a_collection_without_rows_finds_nothing(store: Store) -> None:
    """An empty answer, no error."""
    snapshot = Snapshot(store.collection("default").snapshot().manifest, [], np.zeros(0, np.int64))

    rows, scores = VectorIndex(snapshot).search(_question(), 5)

    assert (rows.tolist(), scores.tolist()) == ([], [])


def test_many_rows_get_an_inverted_file(many: Store) -> None:
    """With all lists probed it finds what an exact search finds, under every filter."""
    snapshot, index = _opened(many)

    assert index.kind == "ivf"
    _assert_exact(snapshot, index)
    for allowed in _masks():
        _assert_exact(snapshot, index, allowed)


def test_a_filter_whose_rows_lie_far_from_the_question_finds_them_all_the_same(
    many: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lists that the question looks into hold none of them."""
    monkeypatch.setattr(vectors, "_EXACT_ROWS", 0)
    snapshot, index = _opened(many)
    assert index.inverted is not None
    index.inverted.index.nprobe = 1
    scores = snapshot.embeddings().astype(np.float32) @ _question()

    allowed = scores < np.median(scores)
    rows, _ = index.search(_question(), 10, allowed)

    assert rows.tolist() == _brute_force(snapshot, _question(), 10, allowed)[0]


def test_a_stored_index_is_not_built_again(many: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second reader loads it."""
    _opened(many)
    files = _files(many)
    monkeypatch.setattr(vectors, "build_inverted", _refuse)

    snapshot, index = _opened(many)

    assert index.kind == "ivf"
    assert len(files) == 2
    assert _files(many) == files
    _assert_exact(snapshot, index)


def _refuse(*_: Any) -> None:
    pytest.fail("the index was built again")


def test_appended_rows_are_searched_exactly(
    many: Store, make_memories: MakeMemories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older index serves, beside a search of what came since, also under a filter."""
    _opened(many)
    many.write(*make_memories(f"b#{i}" for i in range(20)))
    many.delete(passage_ids=["a#3"])
    with monkeypatch.context() as patch:
        patch.setattr(vectors, "build_inverted", _refuse)
        snapshot, index = _opened(many)

    _assert_exact(snapshot, index)
    for allowed in _masks():
        _assert_exact(snapshot, index, np.append(allowed, np.arange(20) % 2 == 0))
    _assert_exact(snapshot, index, snapshot.live)


def test_an_index_is_built_again_when_it_has_fallen_behind(
    many: Store, make_memories: MakeMemories
) -> None:
    """When a fifth of the rows came after it."""
    _opened(many)
    many.write(*make_memories(f"b#{i}" for i in range(120)))

    snapshot, index = _opened(many)

    assert len(_files(many)) == 4
    _assert_exact(snapshot, index)


def test_an_index_does_not_serve_other_rows(many: Store, make_memories: MakeMemories) -> None:
    """After a replace, the rows in front are others."""
    _opened(many)
    many.write(*make_memories((f"b#{i}" for i in range(300)), seed=1), mode="replace")

    snapshot, index = _opened(many)

    assert len(_files(many)) == 4
    _assert_exact(snapshot, index)


@pytest.mark.parametrize("ending", [".json", ".faiss"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_index_is_built_again(
    many: Store, ending: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with it: the answers stay right, and the files are mended."""
    _opened(many)
    files = _files(many)
    (key,) = (key for key in files if key.endswith(ending))
    path = Path(many.objects.location, key)
    whole = files[key]
    middle = len(whole) // 2
    path.unlink()
    if damage != "gone":
        changed = bytes([whole[middle] ^ 1]) + whole[middle + 1 :] if damage == "flip" else b""
        path.write_bytes(whole[:middle] + changed)

    snapshot, index = _opened(many)

    assert index.kind == "ivf"
    _assert_exact(snapshot, index)
    assert _files(many) == files
    monkeypatch.setattr(vectors, "build_inverted", _refuse)
    _opened(many)


def test_a_reader_that_cannot_write_searches_all_the_same(
    many: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps its index to itself, and says so once."""

    def fail(*_: object) -> bool:
        raise StorageError("read-only file system")

    monkeypatch.setattr(many.objects, "put", fail)

    snapshot, index = _opened(many)

    assert index.kind == "ivf"
    _assert_exact(snapshot, index)
    assert "the index could not be stored: read-only file system" in caplog.text
