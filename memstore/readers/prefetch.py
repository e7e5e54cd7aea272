"""One step ahead: while the caller has an item, the next is made ready.

Whichever way the caller leaves, what was begun has ended by then. Close the iterators
(`contextlib.closing`, `aclosing`): an error's traceback would keep them open.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
U = TypeVar("U")
P = ParamSpec("P")


def prefetch(prepare: Callable[[T], U], items: Iterable[T]) -> Generator[U]:
    """Yield `prepare(item)` of each item, made in one background thread.

    An error comes up in the place of the item that it happened to.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="memstore-reader") as thread:
        calls = (thread.submit(prepare, item) for item in items)
        ahead = next(calls, None)
        while ahead is not None:
            ready = ahead.result()
            ahead = next(calls, None)
            yield ready


async def prefetch_async(
    prepare: Callable[[T], Coroutine[Any, Any, U]], items: Iterable[T]
) -> AsyncGenerator[U]:
    """As `prefetch`, in a task of the running event loop."""
    calls = (asyncio.create_task(prepare(item)) for item in items)
    ahead = next(calls, None)
    try:
        while ahead is not None:
            ready = await ahead
            ahead = next(calls, None)
            yield ready
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


async def in_thread(call: Callable[P, U], /, *args: P.args, **kwargs: P.kwargs) -> U:
    """Await a call in a thread; cancelled, wait until it has ended, since it cannot be stopped."""
    running = asyncio.create_task(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise


async def all_of(calls: Iterable[Coroutine[Any, Any, U]]) -> list[U]:
    """Await calls together, and return their results in order; if one fails, stop the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
