"""Rows of an experiment: one JSON line a run, kept when the experiment is killed, never run twice.

A run is told by the fields of its key, such as arm and seed. Only the process that started the
experiment writes; a second one on the same file waits its turn line by line.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memstore.errors import CorruptionError

Key = Mapping[str, str | int]
Row = dict[str, Any]


class ResultLog:
    """A file of JSON lines that grows by one whole line at a time.

    Args:
        path: of the file; made, with its folder, by the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[Row]:
        """Return every row; a last line that was cut off is left out.

        Raises:
            CorruptionError: if another line is not JSON.
        """
        if not self.path.exists():
            return []
        *lines, _ = self.path.read_bytes().split(b"\n")
        return [self._parse(line, number) for number, line in enumerate(lines, 1)]

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Return the keys of which no row holds every field."""
        rows = self.rows()
        return [key for key in keys if not any(key.items() <= row.items() for row in rows)]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row and see it on the disk; a line that was cut off is overwritten."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _parse(self, line: bytes, number: int) -> Row:
        try:
            row = json.loads(line)
        except ValueError as err:
            message = f"{self.path}: line {number} is not JSON; remove it and run again"
            raise CorruptionError(message) from err
        if not isinstance(row, dict):
            raise CorruptionError(f"{self.path}: line {number} is no row; remove it and run again")
        return row


def run_missing(
    log: ResultLog, keys: Sequence[Key], run: Callable[[Key], Row], *, num_workers: int = 1
) -> int:
    """Run what has no row yet, and append a row for each run as it ends.

    A run that fails is told on stderr and leaves no row: the next call tries it again.

    Args:
        log: of the results.
        keys: of the runs, the longest first where there are several workers.
        run: from key to the rest of the row; a function of a module, since other processes call it.
        num_workers: processes; with 1 everything runs in this one.

    Returns:
        How many runs failed.

    Raises:
        BrokenProcessPool: if a process died, of too little memory say.
    """
    num_failed = 0
    for key, result in _outcomes(log.missing(keys), run, num_workers):
        if isinstance(result, Exception):
            num_failed += 1
            print(f"{dict(key)} failed:", file=sys.stderr)
            traceback.print_exception(result)
        else:
            log.append(dict(key) | result)
    return num_failed


def _outcomes(
    keys: list[Key], run: Callable[[Key], Row], num_workers: int
) -> Iterator[tuple[Key, Row | Exception]]:
    if num_workers == 1:
        for key in keys:
            try:
                yield key, run(key)
            except Exception as err:  # one run must not end the others
                yield key, err
        return
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(num_workers, context, _end_with_parent) as pool:
        futures = {pool.submit(run, key): key for key in keys}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                raise  # a process died: none of the others will run either
            except Exception as err:  # as above
                yield futures[future], err


def _end_with_parent() -> None:
    """See to it that this process ends when the one that started it is killed."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def digest(size: object) -> str:
    """Tell what was made at one size of an experiment from what was made before the size changed.

    Args:
        size: a dataclass of dataclasses and values: its `repr` says all that it is.
    """
    return hashlib.sha256(repr(size).encode()).hexdigest()[:12]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for whoever holds the lock of a file, then hold it; the file and its folder are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(columns), ["---"] * len(columns), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
