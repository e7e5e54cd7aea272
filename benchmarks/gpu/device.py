"""The device under test, random tensors on it, and timing by its own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from benchmarks.harness import GateError, Timings

IS_CUDA = torch.cuda.is_available()
DEVICE = "cuda" if IS_CUDA else "cpu"
ROUNDS = 20
_FLUSH_BYTES = 256 << 20  # several times the L2 cache


def require_gpu(*, quick: bool) -> None:
    """Refuse to measure anything but a GPU.

    Raises:
        GateError: if there is none, unless the sizes are quick ones.
    """
    if not IS_CUDA and not quick:
        raise GateError("no CUDA device; --quick with TRITON_INTERPRET=1 tries the code without")
    torch.backends.cuda.matmul.allow_tf32 = False


def gaussian(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return normals on the device."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=DEVICE).to(dtype)


def codebook(seed: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Return (M, K, width) bfloat16 normals, made a subspace at a time."""
    made = torch.empty(shape, dtype=torch.bfloat16, device=DEVICE)
    for m in range(shape[0]):
        made[m] = gaussian(seed + m, *shape[1:])
    return made


def random_codes(seed: int, num_rows: int, num_subspaces: int, codebook_size: int) -> torch.Tensor:
    """Return (num_rows, M) uint8 or uint16, every centroid as likely as another."""
    is_byte = codebook_size <= 256
    generator = torch.Generator(DEVICE).manual_seed(seed)
    shape = num_rows, num_subspaces
    codes = torch.empty(
        shape, dtype=torch.uint8 if is_byte else torch.int32, device=DEVICE
    ).random_(codebook_size, generator=generator)
    return codes if is_byte else codes.to(torch.int16).view(torch.uint16)


def as_index(codes: torch.Tensor) -> torch.Tensor:
    """Return codes as int64, which is what torch indexes with."""
    if codes.dtype == torch.uint8:
        return codes.long()
    return codes.view(torch.int16).long() & 0xFFFF


def array(tensor: torch.Tensor) -> np.ndarray:
    """Return a float tensor as float64."""
    return tensor.double().cpu().numpy()


def time_calls(functions: Mapping[str, Callable[[], object]], *, rounds: int = ROUNDS) -> Timings:
    """Time functions in turns, by CUDA events, with cold caches.

    Before each call a large buffer is overwritten: it empties the L2 cache, and keeps the GPU busy
    while the call is put in its queue, so that the time is the GPU's and not that of Python.

    Returns:
        (rounds, 1) float64 seconds for each, after one warm-up, in which kernels are compiled.
    """
    for function in functions.values():
        function()
    if not IS_CUDA:
        return {name: _on_processor(function) for name, function in functions.items()}
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=DEVICE)
    order = np.random.default_rng(0)
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {
        name: [] for name in functions
    }
    for _ in range(rounds):
        for name in order.permutation(list(functions)):
            start, stop = (_event() for _ in range(2))
            flush.zero_()
            start.record()
            functions[name]()
            stop.record()
            events[name].append((start, stop))
        torch.cuda.synchronize()
    return {
        name: np.array([[start.elapsed_time(stop) / 1e3] for start, stop in pairs])
        for name, pairs in events.items()
    }


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _on_processor(function: Callable[[], object]) -> np.ndarray:
    began = time.perf_counter()
    function()
    return np.array([[time.perf_counter() - began]])


def copy_bandwidth(*, quick: bool) -> float:
    """Return bytes read and written a second by a copy within the device's memory."""
    source = torch.zeros(1 << (16 if quick else 31), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    seconds = time_calls({"copy": lambda: target.copy_(source)})["copy"]
    return 2 * source.numel() / float(np.median(seconds))


def matmul_rate(dtype: torch.dtype, *, quick: bool) -> float:
    """Return the floating-point operations a second of a large square product of normals."""
    size = 64 if quick else 8192
    a, b = (gaussian(seed, size, size, dtype=dtype) for seed in (0, 1))
    seconds = time_calls({"matmul": lambda: a @ b})["matmul"]
    return 2 * size**3 / float(np.median(seconds))
