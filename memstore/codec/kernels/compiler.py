"""How kernels are compiled: at the first call, without the GIL, kept on disk between processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Kernel = TypeVar("_Kernel", bound=Callable[..., Any])


def compiled(kernel: _Kernel) -> _Kernel:
    """Return the kernel as a function that Numba compiles at its first call."""
    try:
        return cast("_Kernel", numba.njit(nogil=True, cache=True)(kernel))
    except (
        RuntimeError
    ):  # no folder to keep compiled code in (a read-only container): compile in every process
        return cast("_Kernel", numba.njit(nogil=True)(kernel))


def read_only(array: Any) -> Any:
    """Return a view that cannot be written, so that Numba compiles for that kind of array alone."""
    view = array.view()
    view.flags.writeable = False
    return view
