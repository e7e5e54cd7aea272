"""What is in a store, for comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from memstore import open_store


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and the time of its last change."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextmanager
def nothing_written(folder: Path) -> Iterator[None]:
    """Fail if a file of `folder` has come, gone or changed by the end of the context."""
    before = files_of(folder)
    yield
    assert files_of(folder) == before


def documents_of(store: Path, version: int | None = None) -> set[str]:
    """The ids of the live documents."""
    snapshot = open_store(store).collection("default").snapshot(version)
    names = snapshot.column("document_id").to_pylist()
    return {name for name, is_live in zip(names, snapshot.live, strict=True) if is_live}


def texts_of(store: Path) -> dict[str, str]:
    """The live text of each document."""
    snapshot = open_store(store).collection("default").snapshot()
    texts: dict[str, str] = {}
    for row in np.flatnonzero(snapshot.live):
        passage = snapshot.passage(int(row))
        texts[passage.document_id] = f"{texts.get(passage.document_id, '')} {passage.text}".strip()
    return texts
