"""What the machine can do at all: multiply matrices and copy memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from benchmarks.codec.parts import Subject
from benchmarks.codec.sizes import Sizes
from memstore.cores import num_cores

SGEMM = "sgemm, NumPy", "sgemm, torch"
TALL = "sgemm, NumPy, scores of 1,024 subvectors"
COPY = "copy"


def products(sizes: Sizes) -> dict[str, Subject]:
    """Return float32 matrix products by name; their work is in floating-point operations."""
    rng = np.random.default_rng(0)
    side = sizes.matrix
    square = [rng.standard_normal((side, side), np.float32) for _ in range(3)]
    tensors = [torch.from_numpy(each) for each in square]
    rows = rng.standard_normal((1_024, sizes.width), np.float32)
    centroids = rng.standard_normal((sizes.width, sizes.codebook_size), np.float32)
    scores = np.zeros((len(rows), sizes.codebook_size), np.float32)
    names = dict.fromkeys(SGEMM, 2.0 * side**3)
    calls = (
        lambda _: np.matmul(square[0], square[1], out=square[2]),
        lambda _: torch.mm(tensors[0], tensors[1], out=tensors[2]),
    )
    found = {
        name: Subject(call, flops) for (name, flops), call in zip(names.items(), calls, strict=True)
    }
    tall = 2.0 * scores.size * sizes.width
    return found | {TALL: Subject(lambda _: np.matmul(rows, centroids, out=scores), tall)}


def copy(sizes: Sizes) -> dict[str, Subject]:
    """Return a copy by a thread a core; its work is in bytes, read and written."""
    width = num_cores()
    source = np.ones(sizes.copy_bytes, np.uint8)
    target = np.zeros_like(source)
    pairs = list(zip(np.array_split(target, width), np.array_split(source, width), strict=True))
    pool = ThreadPoolExecutor(width)

    def once(_turn: int) -> None:
        list(pool.map(lambda pair: np.copyto(*pair), pairs))

    return {COPY: Subject(once, 2.0 * sizes.copy_bytes)}
