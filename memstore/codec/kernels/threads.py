"""The threads that the CPU kernels run on: one pool as wide as the machine, shared by all callers.

Numba's own parallel loops are not used: its portable threading layer aborts the process when two
threads enter it at once, and a server decodes from several. Our kernels are single-threaded and
release the GIL; this module cuts the work.

Decoding a hundred tokens takes a quarter of a millisecond, and waking a thread that sleeps a fifth
of that. So helpers are handed a call by the plainest queue there is, and the caller, once it has
nothing left to do, watches for the last chunks to end before it sleeps. And helpers are kept off
the caller's core: Linux in a virtual machine takes a halted core for one that the host has given
away, and wakes them beside the caller, where they wait for it for milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from memstore.codec.kernels.compiler import compiled
from memstore.cores import num_cores

_CHUNKS_PER_THREAD = 4  # more than one, so that a thread that is held up does not hold up the call
_LOOKS = 100_000  # at the chunks that run, before sleeping until one ends: some 0.1 ms

Kernel = Callable[[int, int], int]


def run_chunks(kernel: Kernel, num_items: int, *, min_items: int) -> list[int]:
    """Run `kernel(start, stop)` over [0, num_items) in chunks of at least `min_items`, in parallel.

    The calling thread takes its share, and all of it if the others are busy or there is one chunk.
    Any number of threads may call this at once.

    Returns:
        What the kernel returned for each chunk, in order.
    """
    width = num_cores()
    num_chunks = max(1, min(num_items // min_items, _CHUNKS_PER_THREAD * width))
    if width == 1 or num_chunks == 1:
        return [kernel(0, num_items)]
    call = _Call(kernel, [num_items * i // num_chunks for i in range(num_chunks + 1)])
    _shared_helpers().begin(call, min(width, num_chunks) - 1)
    call.work()
    return call.wait()


class _Call:
    """The chunks of one call, each taken by the next thread that has time."""

    def __init__(self, kernel: Kernel, bounds: list[int]) -> None:
        num_chunks = len(bounds) - 1
        self._kernel = kernel
        self._bounds = bounds
        self._pending = deque(range(num_chunks))
        self._results = [0] * num_chunks
        self._errors: list[BaseException] = []
        self._has_ended = np.zeros(num_chunks, np.uint8)
        self._ends: SimpleQueue[int] = SimpleQueue()

    def work(self) -> None:
        """Run chunks until none is left to begin; after an error the others are passed over."""
        while True:
            try:
                chunk = self._pending.popleft()
            except IndexError:
                return
            try:
                if not self._errors:
                    self._results[chunk] = self._kernel(*self._bounds[chunk : chunk + 2])
            except BaseException as error:  # raised again where it was called
                self._errors.append(error)
            finally:
                self._has_ended[chunk] = True
                self._ends.put(chunk)

    def wait(self) -> list[int]:
        """Return the results when every chunk has ended; raise the first error."""
        if not _all_end(self._has_ended, _LOOKS):
            while not self._has_ended.all():
                self._ends.get()
        del self._kernel  # a helper that comes late must not keep the caller's arrays
        if self._errors:
            raise self._errors[0]
        return self._results


def _look(_context: Any, flags: Any, at: Any) -> tuple[Any, Any]:
    """Read a byte that another thread may have just written, and all that it wrote before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        flags, at = arguments
        data = context.make_array(signature.args[0])(context, builder, flags).data
        return builder.load_atomic(builder.gep(data, [at]), "acquire", 1)

    return types.uint8(flags, types.intp), generate


look = intrinsic(_look)


@compiled
def _all_end(has_ended: np.ndarray, looks: int) -> bool:
    """Look again and again whether all flags are set, without the GIL."""
    for _ in range(looks):
        num_ended = 0
        for chunk in range(len(has_ended)):
            num_ended += look(has_ended, chunk)
        if num_ended == len(has_ended):
            return True
    return False


class _Helpers:
    """Threads that wait for calls."""

    def __init__(self, count: int) -> None:
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._kept_off: int | None = None
        self._threads = [
            threading.Thread(target=self._help, name=f"memstore-codec-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def begin(self, call: _Call, count: int) -> None:
        """Let so many helpers take part in a call when they have time."""
        self._keep_off_this_core()
        for _ in range(count):
            self._calls.put(call)

    def _help(self) -> None:
        while True:
            self._calls.get().work()

    def _keep_off_this_core(self) -> None:
        if _current_core is None:
            return
        core = _current_core()
        others = os.sched_getaffinity(0) - {core}
        if core == self._kept_off or not others:
            return
        self._kept_off = core
        with suppress(OSError):  # where it is forbidden, helpers wake where they wake
            for thread in self._threads:
                if thread.native_id is not None:
                    os.sched_setaffinity(thread.native_id, others)


_current_core = None
if hasattr(os, "sched_setaffinity"):
    _current_core = getattr(ctypes.CDLL(None), "sched_getcpu", None)

_lock = threading.Lock()
_helpers: _Helpers | None = None


def _shared_helpers() -> _Helpers:
    """Return the helpers of this process, made at the first call."""
    global _helpers
    with _lock:
        if _helpers is None:
            _helpers = _Helpers(num_cores() - 1)
        return _helpers


def _forget_helpers() -> None:
    global _lock, _helpers
    _lock, _helpers = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    # A forked child inherits the queue but not the threads: it would wait for ever.
    os.register_at_fork(after_in_child=_forget_helpers)
