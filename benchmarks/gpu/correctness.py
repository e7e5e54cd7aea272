"""The kernels against float64 and against NumPy, at the sizes that are used and past 2^31 values.

An encoded row is exact if no centroid scores better in float64 by more than the rounding of a
float32 score: 2^-24 times the width and the sizes of its terms. How many roundings the worst one is
away, and the share of codes that float64 gives too, are in the table.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.gpu.baselines import shortfall
from benchmarks.gpu.device import (
    DEVICE,
    array,
    as_index,
    codebook,
    gaussian,
    random_codes,
    require_gpu,
)
from benchmarks.harness import Cell, Context, Outcome, Table, check
from memstore.codec.kernels import reference
from memstore.codec.kernels.gpu_assign import assign, half_norms
from memstore.codec.kernels.gpu_gather import gather
from memstore.codec.kernels.gpu_maxsim import max_similarity
from memstore.codec.kernels.gpu_stages import Prediction
from memstore.codec.kernels.gpu_training import kmeans_step

_Shape = tuple[int, int, int]
_SHAPES: tuple[_Shape, ...] = (
    (256, 65_536, 16), (512, 256, 8), (48, 65_536, 8), (24, 4_096, 32), (3, 300, 5), (5, 257, 16),
)  # fmt: skip
_QUICK_SHAPES: tuple[_Shape, ...] = ((2, 300, 16), (4, 256, 8), (3, 300, 5))
_ROUNDING = 4.0
_WAYS = ("ieee", torch.float32), ("ieee", torch.float16), ("ieee", torch.bfloat16)


def run(context: Context) -> Outcome:
    """Check every kernel; the table says how near encoding comes to float64."""
    require_gpu(quick=context.quick)
    shapes = _QUICK_SHAPES if context.quick else _SHAPES
    gates: list[str] = []
    rows: list[tuple[Cell, ...]] = []
    for shape in shapes:
        table = codebook(context.seed, shape)
        where = f"{shape[0]} x {shape[1]:,} x {shape[2]}"
        gates += check(
            {
                f"{where}: decoding gives the bits of NumPy": partial(_decodes, table),
                f"{where}: a prediction is added in float32": partial(_predicts, table),
                f"{where}: late interaction equals decoding first": partial(_scores, table),
                f"{where}: small codes equal the NumPy reference": partial(_encodes, table),
            }
        )
        for row in _nearness(table):
            rows.append((where, *row))
            worst = float(row[-1])
            gates += check({f"{where}, {row[0]}: exact": partial(operator.le, worst, _ROUNDING)})
    many = 200 if context.quick else 600_000  # times 4,096 values is more than 2^31
    gates += check(
        {
            "rows past 2^31 values of output": lambda: _decodes_far(many),
            "codes that name no centroid are found, and no others": _finds_bad_codes,
            "a training step sums as float64 does": lambda: _trains(quick=context.quick),
        }
    )
    return Outcome(
        gates=gates,
        settings={"shapes": shapes, "allowed_roundings": _ROUNDING},
        tables=[
            Table(
                title="Encoding against an exhaustive search in float64",
                columns=("codebook", "vectors", "same codes", "worst, in roundings"),
                rows=rows,
            )
        ],
        notes=[(__doc__ or "").partition("\n\n")[2].replace("\n", " ").strip()],
    )


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


def _decodes(table: torch.Tensor) -> bool:
    codes = random_codes(1, 700, table.shape[0], table.shape[1])
    expected = reference.gather(as_index(codes).cpu().numpy(), _numpy(table))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        source = table if dtype == torch.float32 else table.to(dtype)
        out = torch.full(expected.shape, torch.nan, dtype=dtype, device=DEVICE)
        bad_row = int(gather(codes, source, out))
        if bad_row != len(codes) or not torch.equal(
            out.cpu(), torch.from_numpy(expected).to(dtype)
        ):
            return False
    return True


def _predicts(table: torch.Tensor) -> bool:
    num_rows, dim = 300, table.shape[0] * table.shape[2]
    codes = random_codes(1, num_rows, table.shape[0], table.shape[1])
    expected_of_ids = gaussian(2, 1_000, dim, dtype=torch.bfloat16)
    ids = as_index(random_codes(3, num_rows, 1, 1_000))[:, 0].int()
    addend = gaussian(4, num_rows, dim)
    centroids = reference.gather(as_index(codes).cpu().numpy(), _numpy(table))
    expected = torch.from_numpy(centroids).to(DEVICE) + expected_of_ids[ids].float() + addend
    # The interpreter cuts where a GPU rounds to bfloat16.
    dtypes = (torch.float32, torch.bfloat16) if table.is_cuda else (torch.float32,)
    for dtype in dtypes:
        out = torch.full((num_rows, dim), torch.nan, dtype=dtype, device=DEVICE)
        gather(codes, table, out, Prediction(expected_of_ids, ids, addend))
        if not torch.equal(out, expected.to(dtype)):
            return False
    return True


def _scores(table: torch.Tensor) -> bool:
    codes = random_codes(1, 500, table.shape[0], table.shape[1])
    queries = gaussian(2, 20, table.shape[0] * table.shape[2], dtype=torch.bfloat16)
    offsets = torch.tensor([0, 1, 180, 180, 500], device=DEVICE)
    scores = torch.empty(4, device=DEVICE)
    max_similarity(queries, codes, offsets, table, scores)
    vectors = reference.gather(as_index(codes).cpu().numpy(), array(table))
    products = array(queries) @ vectors.T
    expected = [
        products[:, start:stop].max(axis=1, initial=-np.inf).sum()
        for start, stop in ((0, 1), (1, 180), (180, 180), (180, 500))
    ]
    return bool(np.allclose(array(scores), expected, rtol=1e-4))


def _encodes(table: torch.Tensor) -> bool:
    """Compare with the reference on integers, where sums are exact and ties are many."""
    num_subspaces, codebook_size, width = min(table.shape[0], 2), *table.shape[1:]
    rng = np.random.default_rng(0)
    centroids = rng.integers(-2, 3, (num_subspaces, codebook_size, width)).astype(np.float32)
    vectors = rng.integers(-3, 4, (300, num_subspaces * width)).astype(np.float32)
    narrow = torch.from_numpy(centroids).to(DEVICE).bfloat16()
    codes = random_codes(0, len(vectors), num_subspaces, codebook_size)
    assign(torch.from_numpy(vectors).to(DEVICE), narrow, half_norms(narrow), codes)
    expected = reference.assign(vectors, centroids)
    return bool((as_index(codes).cpu().numpy() == expected).all())


def _nearness(table: torch.Tensor) -> Iterator[tuple[str, float, float]]:
    vectors = gaussian(5, 512 if table.is_cuda else 40, table.shape[0] * table.shape[2])
    norms, wide = half_norms(table), table.float()
    codes = random_codes(0, len(vectors), table.shape[0], table.shape[1])
    for precision, dtype in _WAYS:
        x = vectors.to(dtype)
        assign(x, table, norms, codes, precision=precision)
        yield (str(dtype).removeprefix("torch."), *shortfall(x, table, as_index(codes)))
    for precision in ("ieee", "tf32x3"):
        assign(vectors, wide, norms, codes, precision=precision)
        name = f"float32, float32 codebook, {precision}"
        yield (name, *shortfall(vectors, wide, as_index(codes)))


def _decodes_far(num_rows: int) -> bool:
    """Compare the first and last rows with torch, whose indices are 64 bits wide."""
    table = codebook(0, (512, 256, 8))
    codes = random_codes(1, num_rows, 512, 256)
    out = torch.empty((num_rows, 4096), dtype=torch.bfloat16, device=DEVICE)
    gather(codes, table, out)
    subspaces = torch.arange(512, device=DEVICE)
    ends = torch.cat([torch.arange(100), torch.arange(num_rows - 100, num_rows)]).to(DEVICE)
    return torch.equal(out[ends], table[subspaces, codes[ends].long()].view(200, -1))


def _finds_bad_codes() -> bool:
    table = codebook(0, (7, 250, 8))  # codes of a byte, and a pad byte
    codes = torch.zeros((5_000, 8), dtype=torch.uint8, device=DEVICE)
    codes[:, :7] = random_codes(1, 5_000, 7, 250)
    out = torch.empty((5_000, 56), dtype=torch.bfloat16, device=DEVICE)
    found = [int(gather(codes, table, out))]
    for row, column, code in ((4_321, 6, 250), (3_000, 7, 1), (77, 0, 255)):
        codes[row, column] = code
        found.append(int(gather(codes, table, out)))
    return found == [5_000, 4_321, 3_000, 77]


def _trains(*, quick: bool) -> bool:
    num_points, num_centroids = (300, 20) if quick else (200_000, 4_096)
    points = gaussian(1, num_points, 16)
    centroids = gaussian(2, num_centroids, 16, dtype=torch.bfloat16)
    step = kmeans_step(points, centroids)
    codes = random_codes(0, num_points, 1, num_centroids)
    assign(points, centroids[None], half_norms(centroids[None]), codes)
    nearest = as_index(codes)[:, 0].cpu().numpy()
    sums = np.zeros((num_centroids, 16))
    np.add.at(sums, nearest, array(points))
    squares = np.square(array(points) - array(centroids)[nearest]).sum()
    return bool(
        (array(step.counts) == np.bincount(nearest, minlength=num_centroids)).all()
        and np.allclose(array(step.sums), sums)
        and np.isclose(array(step.distortion).sum(), squares)
    )
