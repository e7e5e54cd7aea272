"""Decoding of codes in the GPU's memory, against what torch offers for it.

torch `gather` and `index_select` start from the same uint16 or uint8 codes: they index with int64,
which is part of the work. "Indices ready" leaves that part out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import ml_dtypes
import numpy as np
import torch

from benchmarks.gpu.device import (
    DEVICE,
    as_index,
    codebook,
    copy_bandwidth,
    gaussian,
    random_codes,
    require_gpu,
    time_calls,
)
from benchmarks.harness import Cell, Context, Outcome, Table, check, quotient, rate
from memstore.codec import ProductCodec
from memstore.codec.kernels.gpu import GpuCodec
from memstore.codec.kernels.gpu_gather import Tiling, gather
from memstore.codec.kernels.gpu_stages import Prediction
from memstore.codec.predictor import TokenPredictor
from memstore.codec.rotation import Rotation

_Shape = tuple[int, int, int]
_SHAPES: tuple[_Shape, ...] = ((256, 65_536, 16), (512, 256, 8))
_QUICK_SHAPES: tuple[_Shape, ...] = ((4, 300, 16), (8, 256, 8))
_DTYPES = torch.bfloat16, torch.float16, torch.float32
_VOCABULARY = 32_128
_NUM_PLACES = 512
_PASSAGE_TOKENS = 128


def run(context: Context) -> Outcome:
    """Compare by batch and shape, then by dtype, prediction and tiling at one batch."""
    require_gpu(quick=context.quick)
    shapes = _QUICK_SHAPES if context.quick else _SHAPES
    batches = (8, 16) if context.quick else (4_096, 16_384, 65_536, 262_144)
    bandwidth = copy_bandwidth(quick=context.quick)
    gates: list[str] = []
    tables: list[Table] = []
    for shape in shapes:
        table = codebook(context.seed, shape)
        gate = f"{_name(shape)}: the bits of torch's index_select"
        codes = random_codes(1, batches[0], shape[0], shape[1])
        gates += check({gate: partial(_is_equal, codes, table)})
        rows = [_compare(shape, table, batch, bandwidth) for batch in batches]
        tables.append(
            Table(title=f"Decode to bfloat16, {_name(shape)}", columns=_COLUMNS, rows=rows)
        )
        tables.append(_variants(shape, table, batches[-2]))
        tables.append(_tilings(shape, table, batches[-2]))
        del table
    return Outcome(
        gates=gates,
        settings={"dim": 4096, "batches": batches, "copy_bytes_per_s": bandwidth},
        tables=tables,
        notes=[
            (__doc__ or "").partition("\n\n")[2].replace("\n", " ").strip(),
            "Codes are uniformly random, the worst case for caches: every centroid is as likely as "
            "another. The L2 cache is emptied before each call.",
            "Bytes counted: codes, centroids and vectors, each once a token, over the bandwidth of "
            "a copy within the device's memory in the same run.",
        ],
    )


_COLUMNS = (
    "batch", "tokens/s", "GB/s", "of a copy", "torch gather", "torch index_select", "indices ready",
    "faster than the better torch one",
)  # fmt: skip


def _name(shape: _Shape) -> str:
    return f"{shape[0]} subspaces of {shape[1]:,} centroids, {shape[2]} wide"


def _is_equal(codes: torch.Tensor, table: torch.Tensor) -> bool:
    out = torch.full((len(codes), table.shape[0] * table.shape[2]), torch.nan, dtype=table.dtype)
    out = out.to(table.device)
    bad_row = gather(codes, table, out)
    return int(bad_row) == len(codes) and torch.equal(
        out, _selected(_flat_index(codes, table), table)
    )


def _flat_index(codes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    num_subspaces, codebook_size, _ = table.shape
    first = torch.arange(num_subspaces, device=table.device) * codebook_size
    return (as_index(codes) + first).flatten()


def _selected(index: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    num_subspaces, _, width = table.shape
    rows = table.view(-1, width).index_select(0, index)
    return rows.view(-1, num_subspaces * width)


def _gathered(codes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Use `torch.gather` as it offers itself: codes of each subspace along the centroids' axis."""
    width = table.shape[2]
    index = as_index(codes).t()[:, :, None].expand(-1, -1, width)  # (M, N, width)
    return torch.gather(table, 1, index).transpose(0, 1).reshape(len(codes), -1)


def _compare(shape: _Shape, table: torch.Tensor, batch: int, bandwidth: float) -> tuple[Cell, ...]:
    codes = random_codes(1, batch, shape[0], shape[1])
    out = torch.empty((batch, shape[0] * shape[2]), dtype=table.dtype, device=table.device)
    index = _flat_index(codes, table)
    seconds = time_calls(
        {
            "ours": lambda: gather(codes, table, out),
            "gather": lambda: _gathered(codes, table),
            "select": lambda: _selected(_flat_index(codes, table), table),
            "ready": lambda: _selected(index, table),
        }
    )
    num_bytes = codes.nbytes + 2 * out.nbytes
    moved = rate(seconds["ours"], num_bytes / 1e9, "GB/s")
    better = min(("gather", "select"), key=lambda name: seconds[name].sum())
    return (
        f"{batch:,}",
        rate(seconds["ours"], batch, "tokens/s"),
        moved,
        moved.value * 1e9 / bandwidth,
        *(rate(seconds[name], batch, "tokens/s") for name in ("gather", "select", "ready")),
        quotient(seconds[better], seconds["ours"]),
    )


def _variants(shape: _Shape, table: torch.Tensor, batch: int) -> Table:
    """Time other dtypes, a prediction added on the way, and whole codecs with their checks."""
    codes = random_codes(1, batch, shape[0], shape[1])
    dim = shape[0] * shape[2]
    prediction = Prediction(
        gaussian(2, _VOCABULARY, dim, dtype=torch.bfloat16),
        random_codes(3, batch, 1, _VOCABULARY)[:, 0].view(torch.int16).int(),
    )
    with_addend = replace(prediction, addend=gaussian(4, batch, dim))
    functions: dict[str, Callable[[], object]] = {}
    for dtype in _DTYPES:
        name = str(dtype).removeprefix("torch.")
        source = table if dtype == torch.float32 else table.to(dtype)
        out = torch.empty((batch, dim), dtype=dtype, device=table.device)
        functions[name] = partial(gather, codes, source, out)
    out = torch.empty((batch, dim), dtype=torch.bfloat16, device=table.device)
    functions["bfloat16, token table added"] = lambda: gather(codes, table, out, prediction)
    functions["bfloat16, token table and addend"] = lambda: gather(codes, table, out, with_addend)
    functions["bfloat16, row checked before going on"] = lambda: int(gather(codes, table, out))
    functions |= _with_stages(codes, table)
    seconds = time_calls(functions)
    return Table(
        title=f"Decode in other ways, {_name(shape)}, batch {batch:,}",
        columns=("to", "tokens/s", "of plain bfloat16"),
        rows=[
            (name, rate(taken, batch, "tokens/s"), quotient(seconds["bfloat16"], taken))
            for name, taken in seconds.items()
        ],
    )


def _with_stages(codes: torch.Tensor, table: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Return ways to decode records that hold a token id, in passages, with `GpuCodec`."""
    codec = GpuCodec(_staged(table), DEVICE)
    token_ids = random_codes(3, len(codes), 1, _VOCABULARY)
    records = torch.cat([codes.view(torch.int16), token_ids.view(torch.int16)], dim=1)
    starts = range(0, len(codes), _PASSAGE_TOKENS)
    offsets = torch.tensor([*starts, len(codes)], device=DEVICE)
    return {
        "bfloat16, with token predictor, rotated": lambda: codec.decode(
            records, offsets, rotated=True
        ),
        "bfloat16, with predictor and dense rotation undone": lambda: codec.decode(
            records, offsets
        ),
    }


def _staged(table: torch.Tensor) -> ProductCodec:
    """Return a codec of this codebook with a token predictor and a dense rotation, all random."""
    num_subspaces, _, width = table.shape
    dim = num_subspaces * width
    rotation = torch.linalg.qr(gaussian(5, dim, dim))[0].cpu().numpy()
    return ProductCodec(
        _narrow(table),
        rotation=Rotation(rotation[None], np.random.default_rng(6).permutation(dim).astype("i4")),
        predictor=TokenPredictor(
            tokens=_narrow(gaussian(2, _VOCABULARY, dim, dtype=torch.bfloat16)),
            positions=gaussian(7, _NUM_PLACES, dim).cpu().numpy(),
            features=np.zeros((_VOCABULARY, 0), np.float32),
            context=np.zeros((0, dim), np.float32),
        ),
    )


def _narrow(tensor: torch.Tensor) -> np.ndarray:
    """Return a bfloat16 tensor as an array."""
    return tensor.view(torch.int16).cpu().numpy().view(ml_dtypes.bfloat16)


def _tilings(shape: _Shape, table: torch.Tensor, batch: int) -> Table:
    """Time other ways to cut the work up, to see whether the default is the right one."""
    codes = random_codes(1, batch, shape[0], shape[1])
    out = torch.empty((batch, shape[0] * shape[2]), dtype=table.dtype, device=table.device)
    tilings = [
        Tiling(group, values, warps)
        for group in (4, 8, 16, 32)
        for values, warps in ((2048, 2), (2048, 4), (4096, 4), (8192, 4), (8192, 8))
        if values >= group * shape[2]
    ]
    seconds = time_calls(
        {str(tiling): partial(gather, codes, table, out, tiling=tiling) for tiling in tilings}
    )
    ranked = sorted(seconds, key=lambda name: seconds[name].sum())
    return Table(
        title=f"Decode by tiling, {_name(shape)}, batch {batch:,}, best first",
        columns=("tiling", "tokens/s", "of the default"),
        rows=[
            (
                name,
                rate(seconds[name], batch, "tokens/s"),
                quotient(seconds[str(Tiling())], seconds[name]),
            )
            for name in ranked
        ],
    )
