"""Memory that a training step frees is kept for the next one.

glibc gives blocks of more than 32 MiB, as long texts have, back to the system at once; to get one
anew the system clears it page by page (`python -m benchmarks longvq` times both).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Of mallopt(3), and what glibc has before anything is freed.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER, _MOST_BLOCKS, _LARGE = -1, 65_536, 32 << 20


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within, the process keeps what it frees; then it gives back what it can.

    Where the C library is not glibc nothing changes.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        library.mallopt(_MMAP_MAX, _MOST_BLOCKS)
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGE)
        library.malloc_trim(0)
