"""How work is cut over threads."""

from __future__ import annotations

import multiprocessing
import os
import threading

import pytest

from memstore.codec.kernels import threads


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to have four cores, whatever the machine."""
    monkeypatch.setattr(threads, "num_cores", lambda: 4)


@pytest.mark.parametrize(("num_items", "min_items"), [(1, 1), (7, 1), (100, 3), (5, 10)])
def test_chunks_cover_every_item_once(num_items: int, min_items: int) -> None:
    """Chunks follow one another without gap or overlap and come back in order."""
    chunks: list[tuple[int, int]] = []

    def kernel(start: int, stop: int) -> int:
        chunks.append((start, stop))
        return start

    starts = threads.run_chunks(kernel, num_items, min_items=min_items)

    chunks.sort()
    assert starts == [start for start, _ in chunks]
    assert [0] + [stop for _, stop in chunks] == [*starts, num_items]
    assert all(stop - start >= min(min_items, num_items) for start, stop in chunks)


def test_small_work_stays_in_the_calling_thread() -> None:
    """Handing a small decode to another thread would cost more than the decode."""
    here = threading.get_ident()

    ran_here = threads.run_chunks(
        lambda start, stop: int(threading.get_ident() == here), 3, min_items=2
    )

    assert ran_here == [1]


def test_an_error_in_a_chunk_reaches_the_caller() -> None:
    """Nothing is swallowed by the pool."""

    def fail(start: int, stop: int) -> int:
        raise ValueError(f"{start}..{stop}")

    with pytest.raises(ValueError, match=r"\d\.\.\d"):
        threads.run_chunks(fail, 4, min_items=1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinities")
def test_helpers_leave_the_core_of_the_caller_and_the_caller_where_it_may_run() -> None:
    """Two threads on one core take as long as one."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one core")

    threads.run_chunks(lambda start, stop: stop - start, 100, min_items=1)

    helpers = [thread for thread in threading.enumerate() if thread.name.startswith("memstore-")]
    assert helpers
    for helper in helpers:
        assert len(os.sched_getaffinity(helper.native_id or -1) & allowed) == len(allowed) - 1
    assert os.sched_getaffinity(0) == allowed


def test_many_callers_at_once_each_get_their_own_results() -> None:
    """A server decodes from several threads."""
    sums: list[int] = []

    def call(count: int) -> None:
        sums.extend(
            sum(threads.run_chunks(lambda start, stop: stop - start, count, min_items=1)) - count
            for _ in range(50)
        )

    callers = [threading.Thread(target=call, args=(count,)) for count in range(10, 18)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()

    assert sums == [0] * 400


def _sum_in_child() -> None:
    if sum(threads.run_chunks(lambda start, stop: stop - start, 100, min_items=1)) != 100:
        raise SystemExit(1)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    """A data loader that forks after the parent has decoded does not wait for ever."""
    _sum_in_child()

    child = multiprocessing.get_context("fork").Process(target=_sum_in_child)
    child.start()
    child.join(timeout=60)
    exit_code = child.exitcode
    child.kill()

    assert exit_code == 0
