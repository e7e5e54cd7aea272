"""One step ahead, and nothing left behind."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing, closing

import pytest

from memstore.readers.prefetch import all_of, in_thread, prefetch, prefetch_async

PATIENCE_S = 30.0


def _num_threads() -> int:
    return sum(thread.name.startswith("memstore-reader") for thread in threading.enumerate())


class _Steps:
    """Prepares numbers, and says when it began each; those in `failing` fail."""

    def __init__(self, *failing: int) -> None:
        self.failing = failing
        self.begun = [threading.Event() for _ in range(5)]

    def prepare(self, number: int) -> int:
        self.begun[number].set()
        if number in self.failing:
            raise KeyError(number)
        return number * 10

    async def prepare_async(self, number: int) -> int:
        await asyncio.sleep(0)
        return self.prepare(number)

    @property
    def num_begun(self) -> int:
        return sum(event.is_set() for event in self.begun)


def test_the_next_item_is_prepared_while_the_caller_has_one_and_no_more() -> None:
    """Item 1 begins before item 0 is given back; item 2 does not."""
    steps, got = _Steps(), []
    with closing(prefetch(steps.prepare, range(5))) as items:
        for number, item in enumerate(items):
            if number < 4:
                assert steps.begun[number + 1].wait(PATIENCE_S)
            assert steps.num_begun == min(number + 2, 5)
            got.append(item)

    assert got == [0, 10, 20, 30, 40]
    assert _num_threads() == 0


def test_no_items_are_no_items() -> None:
    """Nothing to prepare yields nothing."""
    assert list(prefetch(_Steps().prepare, [])) == []


def test_an_error_comes_up_in_the_place_of_its_item() -> None:
    """What was prepared before it is given out first, and nothing is begun after it."""
    steps = _Steps(2)
    got: list[int] = []
    items = prefetch(steps.prepare, range(5))
    with pytest.raises(KeyError, match="2"):
        got.extend(items)

    assert got == [0, 10]
    assert steps.num_begun == 3
    assert _num_threads() == 0


def test_an_early_stop_waits_for_what_is_under_way_and_begins_nothing_more() -> None:
    """The thread has ended when the iterator is closed."""
    steps = _Steps()
    with closing(prefetch(steps.prepare, range(5))) as items:
        assert next(items) == 0
        assert steps.begun[1].wait(PATIENCE_S)

    assert steps.num_begun == 2
    assert _num_threads() == 0


def test_a_caller_that_fails_leaves_no_thread() -> None:
    """Even while the error that went through still holds the iterator."""
    steps = _Steps()
    with (
        pytest.raises(ZeroDivisionError) as failure,
        closing(prefetch(steps.prepare, range(5))) as items,
    ):
        1 / next(items)

    assert failure.tb is not None
    assert _num_threads() == 0


def test_tasks_are_one_step_ahead_too() -> None:
    """The same items, order and errors on an event loop, and no task left over."""
    steps = _Steps(2)
    got: list[int] = []

    async def collect() -> None:
        async with aclosing(prefetch_async(steps.prepare_async, range(5))) as items:
            async for item in items:
                got.append(item)  # noqa: PERF401 - what came before the error counts

    async def run() -> int:
        with pytest.raises(KeyError, match="2"):
            await collect()
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1
    assert (got, steps.num_begun) == ([0, 10], 3)


def test_an_early_stop_cancels_the_task() -> None:
    """A preparation that would wait for ever is stopped when the iterator is closed."""

    async def prepare(number: int) -> int:
        if number:
            await asyncio.Event().wait()
        return number

    async def run() -> tuple[int, int]:
        async with aclosing(prefetch_async(prepare, range(5))) as items:
            first = await anext(items)
        return first, len(asyncio.all_tasks())

    assert asyncio.run(run()) == (0, 1)


def test_a_cancelled_caller_waits_for_its_thread() -> None:
    """A thread cannot be stopped: cancellation comes through when it has ended."""
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(PATIENCE_S)
        ended.set()

    async def run() -> bool:
        task = asyncio.create_task(in_thread(work))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        task.cancel()
        await asyncio.sleep(0)
        has_waited = not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return has_waited and ended.is_set()

    assert asyncio.run(run())


def test_calls_together_fail_together() -> None:
    """The first error comes up by itself, and the others are stopped."""
    stopped = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("this one")

    with pytest.raises(KeyError, match="this one"):
        asyncio.run(all_of([wait(), fail(), wait()]))
    assert stopped == [True, True]
