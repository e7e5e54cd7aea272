"""Bounded work: how many requests are served at once, and the threads that do their CPU work.

The event loop only moves bytes; search, checksums and decoding run in threads and release the GIL.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import ParamSpec, TypeVar

from memstore.errors import DeadlineError, OverloadedError

P = ParamSpec("P")
T = TypeVar("T")

RETRY_AFTER_S = 1.0
_MAX_UPLOADS = 2
_PARTS_AT_ONCE = 4  # about 4 MiB: what a stream holds ahead of its reader


class Gate:
    """Lets at most `limit` requests in at once and turns the next one away.

    Args:
        limit: how many.
        what: their name in the plural, for the message.
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be inside while the context lasts; raises `OverloadedError` if there is no room."""
        if self._inside >= self._limit:
            raise OverloadedError(
                f"the server is busy with {self._inside} {self._what}; "
                f"come back in {RETRY_AFTER_S:g} s",
                retry_after_s=RETRY_AFTER_S,
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


class Job:
    """The CPU work of one request.

    Args:
        pool: threads to work in.
        deadline: `time.monotonic` value after which nobody waits for the answer; `None`: never.
    """

    def __init__(self, pool: ThreadPoolExecutor, deadline: float | None) -> None:
        self._pool = pool
        self._deadline = deadline

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread; raises `DeadlineError` if its turn comes too late."""

        def call() -> T:
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise DeadlineError(
                    "the time allowed ran out before the server came to it; raise timeout_s, or "
                    "ask when it is less busy"
                )
            return function(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def stream(self, make_parts: Callable[[], Iterable[T]]) -> AsyncIterator[T]:
        """Yield the parts that are made in a thread, a few of them ahead of the reader."""
        # One trip to the threads makes the generator and its first parts: most answers are short.
        iterator, batch = await self.run(lambda: _begin(make_parts))
        while batch:
            for part in batch:
                yield part
            batch = await self.run(_take, iterator) if len(batch) == _PARTS_AT_ONCE else []


def _begin(make_parts: Callable[[], Iterable[T]]) -> tuple[Iterator[T], list[T]]:
    iterator = iter(make_parts())
    return iterator, _take(iterator)


def _take(iterator: Iterator[T]) -> list[T]:
    return list(islice(iterator, _PARTS_AT_ONCE))


class Workers:
    """The server's threads and gates.

    Args:
        num_threads: threads for CPU work.
        max_in_flight: requests at once.
    """

    def __init__(self, num_threads: int, max_in_flight: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, "memstore-work")
        self._requests = Gate(max_in_flight, "requests")
        self._uploads = Gate(_MAX_UPLOADS, "writes")

    @contextmanager
    def admit(self, remaining_s: float | None = None) -> Iterator[Job]:
        """Serve one request while the context lasts.

        Args:
            remaining_s: seconds that the caller will still wait; `None`: as long as it takes.

        Raises:
            OverloadedError: if the server is full.
        """
        with self._requests.enter():
            deadline = None if remaining_s is None else time.monotonic() + remaining_s
            yield Job(self._pool, deadline)

    @contextmanager
    def admit_upload(self, remaining_s: float | None = None) -> Iterator[Job]:
        """Serve one request that holds much memory; raises `OverloadedError` likewise."""
        with self._uploads.enter(), self.admit(remaining_s) as job:
            yield job

    def close(self) -> None:
        """Wait for what runs and drop what has not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)
