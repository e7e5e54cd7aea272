"""The threads that the CPU kernels run on: one pool as wide as the machine, shared by all callers.

Numba's own parallel loops are not used: its portable threading layer aborts the process when two
threads enter it at once, and a server decodes from several. Our kernels are single-threaded and
release the GIL; this module cuts the work.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_CHUNKS_PER_THREAD = 4  # more than one, so that a thread that is held up does not hold up the call

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def num_threads() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_chunks(kernel: Callable[[int, int], int], num_items: int, *, min_items: int) -> list[int]:
    """Run `kernel(start, stop)` over [0, num_items) in chunks of at least `min_items`, in parallel.

    The calling thread takes its share, and all of it if the others are busy or there is one chunk.
    Any number of threads may call this at once.

    Returns:
        What the kernel returned for each chunk, in order.
    """
    width = num_threads()
    num_chunks = max(1, min(num_items // min_items, _CHUNKS_PER_THREAD * width))
    if width == 1 or num_chunks == 1:
        return [kernel(0, num_items)]
    bounds = [num_items * i // num_chunks for i in range(num_chunks + 1)]
    results = [0] * num_chunks
    pending = deque(range(num_chunks))

    def work() -> None:
        while pending:
            try:
                chunk = pending.popleft()
            except IndexError:  # another thread took the last one
                return
            results[chunk] = kernel(bounds[chunk], bounds[chunk + 1])

    helpers = [_shared_pool().submit(work) for _ in range(min(width, num_chunks) - 1)]
    try:
        work()
    finally:
        pending.clear()
        for helper in helpers:
            if not helper.cancel():  # it has begun: its chunk is being written
                helper.result()
    return results


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(num_threads(), thread_name_prefix="memstore-codec")
        return _pool


def _forget_pool() -> None:
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    # A forked child inherits the pool object but not its threads: it would wait for ever.
    os.register_at_fork(after_in_child=_forget_pool)
