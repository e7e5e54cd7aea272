"""k-means of one subspace, against torch: chunked product and argmax, then sums by `index_add_`.

The codes of a step are checked in the slice `correctness`. torch's sums are by atomic additions and
differ from run to run; ours do not.
"""

from __future__ import annotations

import torch

from benchmarks.gpu.baselines import nearest
from benchmarks.gpu.device import gaussian, require_gpu, time_calls
from benchmarks.harness import Cell, Context, Outcome, Table, check, quotient, rate
from memstore.codec.kernels.gpu_assign import half_norms
from memstore.codec.kernels.gpu_training import kmeans_step, train_codebook_gpu

_ITERATIONS = 5


def run(context: Context) -> Outcome:
    """Time one step, and a short training."""
    require_gpu(quick=context.quick)
    num_points, codebook_size, width = (500, 40, 16) if context.quick else (1_000_000, 65_536, 16)
    points = gaussian(1, num_points, width)
    centroids = points[:codebook_size].clone()
    narrow = centroids.bfloat16()
    gates = check(
        {
            "every point is counted once": lambda: _counts_all(points, narrow),
            "the same seed gives the same centroids": lambda: _repeats(points, codebook_size),
            "training lowers the distortion": lambda: _improves(points, codebook_size),
        }
    )
    seconds = time_calls(
        {
            "ours": lambda: kmeans_step(points, narrow),
            "torch": lambda: _torch_step(points, centroids),
        }
    )
    trained = time_calls(
        {"ours": lambda: train_codebook_gpu(points, codebook_size, iterations=_ITERATIONS)},
        rounds=5,
    )["ours"]
    rows: list[tuple[Cell, ...]] = [
        (name, rate(taken, 1, "steps/s"), quotient(seconds["torch"], taken))
        for name, taken in seconds.items()
    ]
    rows.append(
        (f"ours, training of {_ITERATIONS} steps", rate(trained, _ITERATIONS, "steps/s"), "")
    )
    return Outcome(
        gates=gates,
        settings={"points": num_points, "centroids": codebook_size, "width": width},
        tables=[
            Table(title="k-means of one subspace", columns=("by", "rate", "times torch"), rows=rows)
        ],
        notes=[(__doc__ or "").partition("\n\n")[2].replace("\n", " ").strip()],
    )


def _counts_all(points: torch.Tensor, centroids: torch.Tensor) -> bool:
    step = kmeans_step(points, centroids)
    total = points.double().sum(dim=0)
    return int(step.counts.sum()) == len(points) and torch.allclose(step.sums.sum(dim=0), total)


def _repeats(points: torch.Tensor, codebook_size: int) -> bool:
    first, second = (train_codebook_gpu(points, codebook_size, iterations=2) for _ in range(2))
    return torch.equal(first, second)


def _improves(points: torch.Tensor, codebook_size: int) -> bool:
    losses = [
        float(
            kmeans_step(
                points, train_codebook_gpu(points, codebook_size, iterations=n)
            ).distortion.sum()
        )
        for n in (1, _ITERATIONS)
    ]
    return losses[1] < losses[0]


def _torch_step(points: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    table = centroids[None]
    codes = nearest(points, table, half_norms(table), torch.float32)[:, 0]
    sums = torch.zeros_like(centroids).index_add_(0, codes, points)
    return sums, torch.bincount(codes, minlength=len(centroids))
