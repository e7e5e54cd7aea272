"""A device, the module under test, and the way of arrays to the device."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest
import torch

from tests.unit.codec.kernels.gpu.material import IS_INTERPRETED


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu), "cpu"])
def device(request: pytest.FixtureRequest) -> str:
    """A GPU, or the CPU in the interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if request.param == "cpu" and not IS_INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1")
    if request.param == "cuda" and (IS_INTERPRETED or not torch.cuda.is_available()):
        pytest.skip("needs a CUDA device and no TRITON_INTERPRET")
    return str(request.param)


@pytest.fixture
def gpu(device: str) -> ModuleType:
    """The module under test, which cannot be imported without Triton."""
    from memstore.codec.kernels import gpu

    return gpu


@pytest.fixture
def tensor(device: str) -> Callable[[np.ndarray], torch.Tensor]:
    """Return a function that copies an array of any of the dtypes here to the device."""

    def copy(array: np.ndarray) -> torch.Tensor:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(device)
        return torch.from_numpy(array.copy()).to(device)

    return copy
