"""Exact encoding, against torch: a product with all centroids in chunks, then an argmax.

torch's scores are written to memory and read again; in float32 that alone takes 8 bytes a score.
Its TF32 and bfloat16 scores are too coarse to choose by, and stand here for their speed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu.baselines import nearest, shortfall
from benchmarks.gpu.device import (
    as_index,
    codebook,
    gaussian,
    matmul_rate,
    random_codes,
    require_gpu,
    time_calls,
)
from benchmarks.harness import Cell, Context, Outcome, Table, check, quotient, rate
from memstore.codec.kernels.gpu_assign import LARGE, SMALL, Tiling, assign, half_norms

_Shape = tuple[int, int, int]
_SHAPES: tuple[_Shape, ...] = ((256, 65_536, 16), (512, 256, 8))
_QUICK_SHAPES: tuple[_Shape, ...] = ((2, 300, 16), (4, 256, 8))
_ROUNDING = 4.0  # times that of a float32 score: how far from the best a chosen one may be
_TILINGS = (
    LARGE, SMALL, Tiling(128, 64, 4, 3), Tiling(128, 128, 4, 3), Tiling(128, 128, 8, 3),
    Tiling(128, 128, 8, 4), Tiling(64, 128, 4, 4), Tiling(64, 256, 4, 3), Tiling(128, 256, 8, 3),
    Tiling(256, 64, 8, 3), Tiling(256, 128, 8, 3), Tiling(64, 64, 4, 4),
)  # fmt: skip


def run(context: Context) -> Outcome:
    """Compare at one batch, then by batch and by tiling."""
    require_gpu(quick=context.quick)
    shapes = _QUICK_SHAPES if context.quick else _SHAPES
    batch = 40 if context.quick else 4_096
    batches = (3, 40) if context.quick else (64, 1_024, 16_384, 65_536)
    rates = {
        dtype: matmul_rate(dtype, quick=context.quick) for dtype in (torch.float32, torch.bfloat16)
    }
    gates: list[str] = []
    tables: list[Table] = []
    for shape in shapes:
        table = codebook(context.seed, shape)
        norms = half_norms(table)
        gate = f"{_name(shape)}: within {_ROUNDING:.0f} roundings of the best float64 score"
        gates += check({gate: partial(_is_exact, table, norms)})
        tables.append(_against_torch(table, norms, batch, rates[torch.float32]))
        tables.append(_by_batch(table, norms, batches))
        tables.append(_by_tiling(table, norms, batch))
        del table, norms
    return Outcome(
        gates=gates,
        settings={
            "batch": batch,
            "batches": batches,
            "matmul_float32_flops": rates[torch.float32],
            "matmul_bfloat16_flops": rates[torch.bfloat16],
        },
        tables=tables,
        notes=[
            (__doc__ or "").partition("\n\n")[2].replace("\n", " ").strip(),
            "Vectors and centroids are normals. Work counted: 2 K D floating-point operations a "
            "token, over the rate of a float32 product of 8192 x 8192 matrices in the same run.",
        ],
    )


def _name(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} subspaces of {shape[1]:,} centroids, {shape[2]} wide"


def _codes(num_rows: int, table: torch.Tensor) -> torch.Tensor:
    return random_codes(0, num_rows, table.shape[0], table.shape[1])


def _is_exact(table: torch.Tensor, norms: torch.Tensor) -> bool:
    vectors = gaussian(7, 200, table.shape[0] * table.shape[2])
    codes = _codes(len(vectors), table)
    bad_row = assign(vectors, table, norms, codes)
    _, worst = shortfall(vectors, table, as_index(codes))
    return int(bad_row) == len(vectors) and worst <= _ROUNDING


def _against_torch(
    table: torch.Tensor, norms: torch.Tensor, batch: int, sgemm_flops: float
) -> Table:
    num_subspaces, codebook_size, width = table.shape
    dim = num_subspaces * width
    vectors = gaussian(5, batch, dim)
    half, narrow, wide_table = vectors.half(), vectors.bfloat16(), table.float()
    codes = _codes(batch, table)

    def with_tf32() -> None:
        torch.backends.cuda.matmul.allow_tf32 = True
        nearest(vectors, wide_table, norms, torch.float32)
        torch.backends.cuda.matmul.allow_tf32 = False

    functions: dict[str, Callable[[], object]] = {
        "ours": lambda: assign(vectors, table, norms, codes),
        "ours, float16 vectors": lambda: assign(half, table, norms, codes),
        "ours, bfloat16 vectors": lambda: assign(narrow, table, norms, codes),
        "ours, float32 codebook, ieee": lambda: assign(vectors, wide_table, norms, codes),
        "ours, float32 codebook, tf32x3": lambda: assign(
            vectors, wide_table, norms, codes, precision="tf32x3"
        ),
        "torch, float32": lambda: nearest(vectors, wide_table, norms, torch.float32),
        "torch, TF32": with_tf32,
        "torch, bfloat16": lambda: nearest(narrow, table, norms, torch.bfloat16),
    }
    seconds = time_calls(functions)
    flops = 2 * codebook_size * dim * batch
    rows: list[tuple[Cell, ...]] = []
    for name, taken in seconds.items():
        work = rate(taken, flops / 1e12, "TFLOP/s")
        over = work.value * 1e12 / sgemm_flops
        rows.append(
            (
                name,
                rate(taken, batch, "tokens/s"),
                work,
                over,
                quotient(seconds["torch, float32"], taken),
            )
        )
    return Table(
        title=f"Encode float32 vectors, {_name(table.shape)}, batch {batch:,}",
        columns=("by", "tokens/s", "work", "over the float32 product's", "times torch, float32"),
        rows=rows,
    )


def _by_batch(table: torch.Tensor, norms: torch.Tensor, batches: tuple[int, ...]) -> Table:
    dim = table.shape[0] * table.shape[2]
    rows: list[tuple[Cell, ...]] = []
    for batch in batches:
        vectors, codes = gaussian(6, batch, dim), _codes(batch, table)
        narrow = vectors.bfloat16()
        seconds = time_calls(
            {
                "float32": lambda: assign(vectors, table, norms, codes),  # noqa: B023
                "bfloat16": lambda: assign(narrow, table, norms, codes),  # noqa: B023
            }
        )
        rows.append((f"{batch:,}", *(rate(taken, batch, "tokens/s") for taken in seconds.values())))
    return Table(
        title=f"Encode by batch, {_name(table.shape)}",
        columns=("batch", "float32 vectors", "bfloat16 vectors"),
        rows=rows,
    )


def _by_tiling(table: torch.Tensor, norms: torch.Tensor, batch: int) -> Table:
    """Time other ways to cut the search up, to see whether the default is the right one."""
    vectors, codes = gaussian(5, batch, table.shape[0] * table.shape[2]), _codes(batch, table)
    narrow = vectors.bfloat16()
    functions: dict[str, Callable[[], object]] = {}
    for tiling in _TILINGS:
        for name, x in (("float32", vectors), ("bfloat16", narrow)):
            functions[f"{name} {tiling}"] = partial(assign, x, table, norms, codes, tiling=tiling)
    seconds = time_calls(functions)
    ranked = sorted(seconds, key=lambda name: seconds[name].sum())
    return Table(
        title=f"Encode by tiling, {_name(table.shape)}, batch {batch:,}, best first",
        columns=("vectors and tiling", "tokens/s"),
        rows=[(name, rate(seconds[name], batch, "tokens/s")) for name in ranked],
    )
