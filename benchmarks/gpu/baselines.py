"""What torch offers for exact encoding (a product with all centroids, an argmax), and float64."""

from __future__ import annotations

import torch

_SCORE_BYTES = 1 << 32  # written at a time


def nearest(
    vectors: torch.Tensor, table: torch.Tensor, norms: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Find the nearest centroid of every subvector.

    Args:
        vectors: (N, D) floats.
        table: (M, K, width).
        norms: (M, K) float32, -|c|^2/2.
        dtype: of the product and of the scores.

    Returns:
        (N, M) int64; of equal scores, any.
    """
    num_subspaces, codebook_size, width = table.shape
    codes = torch.empty((len(vectors), num_subspaces), dtype=torch.int64, device=vectors.device)
    rows = max(1, _SCORE_BYTES // (codebook_size * dtype.itemsize))
    for m in range(num_subspaces):
        centroids = table[m].to(dtype).t()  # (width, K)
        bias = norms[m].to(dtype)
        for first in range(0, len(vectors), rows):
            block = vectors[first : first + rows, m * width : (m + 1) * width].to(dtype)
            codes[first : first + rows, m] = torch.addmm(bias, block, centroids).argmax(dim=1)
    return codes


def shortfall(
    vectors: torch.Tensor, table: torch.Tensor, codes: torch.Tensor
) -> tuple[float, float]:
    """Compare codes with an exhaustive search in float64.

    Args:
        vectors: (N, D) floats; N K float64 scores are held at a time.
        table: (M, K, width).
        codes: (N, M) int64.

    Returns:
        The share of codes that are the lowest of the best, and the largest amount by which the
        score of another is below the best, over the rounding of a float32 score: 2^-24 times the
        width, |x|.|c| and |c|^2/2 of the centroid that was chosen.
    """
    num_subspaces, _, width = table.shape
    equal, worst = 0, 0.0
    for m in range(num_subspaces):
        centroids = table[m].double()
        x = vectors[:, m * width : (m + 1) * width].double()
        scores = torch.addmm(-0.5 * centroids.square().sum(dim=1), x, centroids.t())
        best, lowest = scores.max(dim=1)
        chosen = codes[:, m]
        equal += int((chosen == lowest).sum())
        gap = best - scores.gather(1, chosen[:, None])[:, 0]
        size = (x.abs() * centroids[chosen].abs()).sum(dim=1)
        size += 0.5 * centroids[chosen].square().sum(dim=1)
        worst = max(worst, float((gap / (size * width * 2.0**-24).clamp(min=1e-300)).max()))
    return equal / codes.numel(), worst
