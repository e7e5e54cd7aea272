"""Memory that starts on a cache line."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.codec.buffers import aligned_empty


@pytest.mark.parametrize("shape", [(6, 10, 32), (3,), (0, 4), (1000, 4096)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_an_array_starts_on_a_cache_line(shape: tuple[int, ...], dtype: type) -> None:
    """Whatever its shape and dtype, it is contiguous and can be written."""
    array = aligned_empty(shape, dtype)
    array[...] = 1

    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.size == 0 or array.ctypes.data % 64 == 0
    assert array.flags.c_contiguous
