"""How GPU kernels are compiled: by Triton, at the first call, kept on disk between processes.

With TRITON_INTERPRET=1 in the environment they run in NumPy on the CPU instead, slowly: that is how
they are tested where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import triton

from memstore.errors import ConfigError


def compiled(kernel: Callable[..., None]) -> Any:
    """Return the kernel as a function that is launched with `kernel[grid](...)`."""
    return triton.jit(kernel)


def next_power_of_two(value: int) -> int:
    """Return the least power of two that is not below `value`; blocks have such sides."""
    return 1 << (value - 1).bit_length()


def no_bad_row(num_rows: int, device: torch.device) -> torch.Tensor:
    """Return the (1,) int64 tensor into which a kernel brings the first row that it refuses."""
    return torch.full((1,), num_rows, dtype=torch.int64, device=device)


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Make the tensor's device the one on which kernels are launched; nothing, off a GPU."""
    return torch.cuda.device_of(tensor)  # type: ignore[no-untyped-call]


def open_device(name: str) -> torch.device:
    """Return the CUDA device of this name; with the interpreter, any device.

    Raises:
        ConfigError: if torch does not see it.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as err:  # torch asserts that it was built with CUDA
        raise ConfigError(f"device: got {name!r}, which torch cannot use: {err}") from err
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ConfigError(f"device: got {name!r}, wanted a CUDA device such as 'cuda:0'")
    return device
