"""Writes while files may not grow beyond a limit: `limited_writes.py FOLDER LIMIT_BYTES`.

Prints one JSON line: what the write raised, what the store held then, and a write without limit.
"""

from __future__ import annotations

import json
import resource
import sys

import numpy as np

from memstore import open_store
from memstore.errors import MemstoreError
from memstore.types import Passage


def main(folder: str, limit_bytes: int) -> None:
    """Try to write 2 MiB of retrieval vectors and codes."""
    passages = [Passage(document_id="new", number=i, text=f"new {i}") for i in range(4000)]
    memories = list(np.random.default_rng(0).standard_normal((4000, 4, 16)).astype(np.float32))
    store = open_store(folder)
    store.search(np.ones(16))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, most))
    error = ""
    try:
        store.write(passages, memories)
    except MemstoreError as err:
        error = f"{err.code}: {err}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    info = store.collection_info()
    fetched = len(store.fetch(["a#0", "c#3"]).memories)
    temps = [key for key in store.objects.list("") if ".tmp-" in key]
    report = {
        "error": error,
        "version": info.version,
        "num_passages": info.num_passages,
        "fetched": fetched,
        "temps": temps,
        "problems": store.verify().problems,
        "version_after": store.write(passages, memories).version,
    }
    sys.stdout.write(f"{json.dumps(report)}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
