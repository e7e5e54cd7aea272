"""Gates, threads and deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from memstore.errors import DeadlineError, OverloadedError
from server.work import Gate, Workers


def test_a_gate_counts_who_is_inside():
    """The one too many is turned away, and room comes back however a request ends."""
    gate = Gate(2, "requests")
    with gate.enter(), gate.enter():
        refused = pytest.raises(OverloadedError, match="busy with 2 requests")
        with refused, gate.enter():
            pass
    with pytest.raises(ZeroDivisionError), gate.enter():
        raise ZeroDivisionError
    with gate.enter():
        pass


def test_work_that_is_too_late_is_not_done():
    """Nobody waits for it any more."""
    done: list[int] = []

    async def late() -> None:
        workers = Workers(1, 1)
        with workers.admit(remaining_s=-1.0) as job, pytest.raises(DeadlineError):
            await job.run(done.append, 1)
        with workers.admit(remaining_s=60.0) as job:
            await job.run(done.append, 2)
        workers.close()

    asyncio.run(late())
    assert done == [2]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 9])
def test_a_stream_yields_all_parts_in_order(count: int):
    """Whether or not they fill the batches."""

    async def collect() -> list[int]:
        workers = Workers(1, 1)
        with workers.admit() as job:
            parts = [part async for part in job.stream(lambda: range(count))]
        workers.close()
        return parts

    assert asyncio.run(collect()) == list(range(count))


def test_a_stream_runs_only_a_little_ahead_of_its_reader():
    """A slow reader does not make the server hold the whole answer."""
    made: list[int] = []

    def parts() -> Iterator[int]:
        for part in range(1000):
            made.append(part)
            yield part

    async def read_one() -> None:
        workers = Workers(1, 1)
        with workers.admit() as job:
            stream = job.stream(parts)
            assert await anext(stream) == 0
            await stream.aclose()
        workers.close()

    asyncio.run(read_one())
    assert len(made) == 4


def test_writes_have_a_narrower_gate():
    """Each holds much memory, so few are let in however many requests are."""
    workers = Workers(1, 100)
    with workers.admit_upload(), workers.admit_upload():
        with pytest.raises(OverloadedError, match="writes"), workers.admit_upload():
            pass
        with workers.admit():
            pass
    workers.close()
