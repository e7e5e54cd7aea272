"""k-means on a GPU: the centroids of one subspace, all points in its memory.

The nearest centroids come from the search that encodes, so no table of distances is made; the
sums are taken over points sorted by centroid, so the same seed and points give the same centroids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memstore.codec.kernels.gpu_assign import assign, half_norms
from memstore.errors import ShapeError

# How far the halves of a cluster start from its centroid, as a share of it: less would be lost in
# the rounding to bfloat16, and the halves would be one.
_NUDGE = 2.0**-7


@dataclass(frozen=True, slots=True)
class Step:
    """What one pass over the points finds.

    Attributes:
        sums: (K, width) float64, the sum of the points nearest to each centroid.
        counts: (K,) int64, how many they are.
        distortion: (K,) float64, the sum of the squared distances to them.
    """

    sums: torch.Tensor
    counts: torch.Tensor
    distortion: torch.Tensor


def kmeans_step(points: torch.Tensor, centroids: torch.Tensor) -> Step:
    """Assign points to their nearest centroids, and sum them up.

    Args:
        points: (N, width) float32, float16 or bfloat16, contiguous.
        centroids: (K, width) float32 or bfloat16, contiguous, 2 <= K <= 65,536. With bfloat16 the
            search is several times faster, and no less exact.

    Returns:
        The same values each time, on the same kind of machine.

    Raises:
        ShapeError: if a value is not finite.
    """
    num_centroids = len(centroids)
    dtype = torch.uint8 if num_centroids <= 256 else torch.uint16
    codes = torch.empty((len(points), 1), dtype=dtype, device=points.device)
    codebook = centroids[None]
    bad_row = int(assign(points, codebook, half_norms(codebook), codes))
    if bad_row < len(points):
        raise ShapeError(f"training vectors: row {bad_row} holds NaN or infinity", row=bad_row)
    nearest = codes[:, 0].long()
    order = torch.argsort(nearest, stable=True)
    members = points[order].double()
    counts = torch.bincount(nearest, minlength=num_centroids)
    squares = (members - centroids[nearest[order]].double()).square().sum(dim=1)
    sums, distortion = (
        torch.segment_reduce(values, "sum", lengths=counts, axis=0, unsafe=True)
        for values in (members, squares)
    )
    return Step(sums, counts, distortion)


def train_codebook_gpu(
    points: torch.Tensor, codebook_size: int, *, iterations: int = 12, seed: int = 0
) -> torch.Tensor:
    """Run k-means from points drawn at random; an empty cluster takes half of a bad one.

    Points are assigned to centroids as a bfloat16 codebook will hold them, and the centroids are
    kept in float32 in between.

    Args:
        points: (N, width) float32, float16 or bfloat16, contiguous, finite, N >= codebook_size.
        codebook_size: K.
        iterations: passes over the points.
        seed: the same seed and points give the same centroids, on the same kind of machine.

    Returns:
        (K, width) float32 centroids.

    Raises:
        ShapeError: if a value is not finite, or there are fewer points than centroids.

    Cost: 6 N K width floating-point operations an iteration for float32 points; memory 24 N width
    bytes beside the points.
    """
    if len(points) < codebook_size:
        raise ShapeError(
            f"training vectors: got {len(points)}, wanted at least {codebook_size}, one a "
            "centroid; lower codebook_size or add vectors"
        )
    # Drawn on the processor: the same on every device.
    drawn = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))
    centroids = points[drawn[:codebook_size].to(points.device)].float()
    for _ in range(iterations):
        step = kmeans_step(points, centroids.bfloat16())
        counts = step.counts[:, None]
        means = (step.sums / counts.clamp(min=1)).float()
        centroids = _revive(torch.where(counts > 0, means, centroids), step)
    return centroids


def _revive(centroids: torch.Tensor, step: Step) -> torch.Tensor:
    """Set each empty cluster beside one that loses much, and that one a little to the other side.

    Loss, not size, chooses: a thousand equal points are served well by one centroid.
    """
    empty = torch.nonzero(step.counts == 0)[:, 0]
    worst = torch.argsort(step.distortion, descending=True, stable=True)
    num_revived = min(len(empty), int((step.distortion > 0).sum()))
    empty, worst = empty[:num_revived], worst[:num_revived]
    centroids[empty] = centroids[worst] * (1 + _NUDGE)
    centroids[worst] *= 1 - _NUDGE
    return centroids
