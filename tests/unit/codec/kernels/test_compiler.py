"""How kernels are compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from memstore.codec.kernels.compiler import compiled, read_only


def test_a_kernel_that_cannot_be_cached_is_compiled_all_the_same() -> None:
    """A function without a file has no place for a cache, like one in a read-only container."""
    namespace: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x\n", namespace)  # noqa: S102 (a function without a file)

    assert compiled(namespace["double"])(21) == 42


def test_read_only_leaves_the_array_as_it_was() -> None:
    """The view shares memory and cannot be written; the array still can."""
    array = np.zeros(3)

    view = read_only(array)

    assert np.shares_memory(view, array)
    assert not view.flags.writeable
    assert array.flags.writeable
