"""Appends passages `NAME#0` … one by one: `append_process.py STORE NAME COUNT`.

It says `ready`, waits for a line, and prints each version that it made.
"""

from __future__ import annotations

import sys

import numpy as np

from memstore import open_store
from memstore.types import Passage


def main(folder: str, name: str, count: int) -> None:
    """Append `count` passages, each in a commit of its own."""
    store = open_store(folder)
    store.search(np.ones(16))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for number in range(count):
        passage = Passage(document_id=name, number=number, text=name)
        result = store.write([passage], [np.ones((1, 16), dtype=np.float32)])
        sys.stdout.write(f"{result.version}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
