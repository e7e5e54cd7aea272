"""Memory that kernels read and write without straddling cache lines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LINE_BYTES = 64


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an uninitialised C-contiguous array that starts on a cache line.

    One of 4 MiB or more lies in huge pages where Linux gives them: NumPy asks for that.
    """
    dtype = np.dtype(dtype)
    num_bytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(num_bytes + LINE_BYTES, np.uint8)
    start = -buffer.ctypes.data % LINE_BYTES
    aligned: np.ndarray = buffer[start : start + num_bytes].view(dtype).reshape(shape)
    return aligned
