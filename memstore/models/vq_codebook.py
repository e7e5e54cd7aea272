"""What a trained codebook is made with: the search, what codes add up to, and new centroids.

All of it works on subvectors, (T, M, width) float32, on any device, and gives every process of a
torch.distributed group the same answer about the tokens of all.

Does not: hold state (`vq.py` does).
"""

from __future__ import annotations

import torch
from torch import distributed

_SCORES = 1 << 20  # that are held at a time: 4 MiB, which stays in a processor's cache
_CUDA_SCORES = 1 << 28  # 1 GiB: few and large products
_REFINEMENTS = 10  # of k-means; 25 lower the error by about 1 % more, as training does


def nearest(points: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Find the nearest centroid of every subvector; of equals, the one with the lowest code.

    Args:
        points: (T, M, width) float32, finite.
        codebook: (M, K, width) float32.

    Returns:
        (T, M) int64 codes.

    Cost: 2 T M K width floating-point operations; a table of at most 4 MiB (1 GiB on CUDA), or of
    one row of K scores.
    """
    num_tokens, num_subspaces, _ = points.shape
    codebook_size = codebook.shape[1]
    limit = _CUDA_SCORES if points.is_cuda else _SCORES
    rows = max(1, min(num_tokens, limit // codebook_size))
    group = max(1, limit // (rows * codebook_size))
    half_norms = codebook.square().sum(dim=2)[:, None] / 2  # (M, 1, K)
    codes = torch.empty((num_tokens, num_subspaces), dtype=torch.int64, device=points.device)
    for m in range(0, num_subspaces, group):
        some = slice(m, m + group)
        for start in range(0, num_tokens, rows):
            block = points[start : start + rows, some].transpose(0, 1)  # (group, rows, width)
            # argmax of x.c - |c|^2/2 is argmin of |x - c|^2; argmax takes the first of equals.
            scores = torch.baddbmm(half_norms[some], block, codebook[some].mT, beta=-1)
            codes[start : start + rows, some] = scores.argmax(dim=2).T
    return codes


def gather(codes: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Return (T, M, width): the centroids that (T, M) codes name."""
    return codebook[torch.arange(len(codebook), device=codes.device), codes]


def count(codes: torch.Tensor, codebook_size: int) -> torch.Tensor:
    """Return (M, K) float32: how often each of (T, M) codes occurs."""
    slots = _slots(codes, codebook_size)
    counts = torch.bincount(slots.flatten(), minlength=codes.shape[1] * codebook_size)
    return counts.view(-1, codebook_size).float()


def add_up(points: torch.Tensor, codes: torch.Tensor, codebook_size: int) -> torch.Tensor:
    """Return (M, K, width) float32: the sums of the subvectors that have each code."""
    num_subspaces, width = points.shape[1:]
    sums = points.new_zeros((num_subspaces * codebook_size, width))
    sums.index_add_(0, _slots(codes, codebook_size).flatten(), points.flatten(0, 1))
    return sums.view(num_subspaces, codebook_size, width)


def _slots(codes: torch.Tensor, codebook_size: int) -> torch.Tensor:
    """Number the codes through over all subspaces."""
    return codes + codebook_size * torch.arange(codes.shape[1], device=codes.device)


def draw_centroids(
    points: torch.Tensor, kept: torch.Tensor, num_drawn: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw points as new centroids, each in proportion to the squared distance from the nearest.

    As k-means++ does, but as many at a time as there are centroids already, so that K take
    log2(K) rounds. A point that a centroid stands on is never drawn.

    Args:
        points: (N, width) float32: of one subspace, the same in all processes.
        kept: (k, width) float32 centroids that stay; may be none.
        num_drawn: at most this many are drawn, fewer if fewer points differ from all centroids.
        generator: of the processor, so that all devices draw alike.

    Returns:
        (at most num_drawn, width) float32.

    Source: k-means++ (Arthur & Vassilvitskii 2007), rounds as in k-means|| (Bahmani et al. 2012);
    drawing without replacement: Efraimidis & Spirakis 2006.
    """
    errors = torch.full((len(points),), torch.inf, device=points.device)
    errors = _lower(errors, points, kept)
    drawn = points[:0]
    while len(drawn) < num_drawn:
        num_available = int(torch.count_nonzero(errors))
        num_next = min(num_drawn - len(drawn), max(1, len(kept) + len(drawn)), num_available)
        if not num_next:
            break
        noise = torch.empty(len(points)).exponential_(generator=generator).to(points.device)
        weights = errors.nan_to_num(posinf=1.0)  # the very first is any
        rows = torch.topk(noise / weights, num_next, largest=False).indices
        errors[rows] = 0
        chosen = torch.unique(points[rows], dim=0)  # of equal points, one round may draw several
        errors = _lower(errors, points, chosen)
        drawn = torch.cat([drawn, chosen])
    return drawn


def _lower(errors: torch.Tensor, points: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return the squared distances to the nearest of more centroids."""
    if not len(centroids):
        return errors
    codes = nearest(points[:, None], centroids[None])
    return torch.minimum(errors, (points - centroids[codes[:, 0]]).square().sum(dim=1))


def learn_codebook(
    points: torch.Tensor, codebook_size: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw centroids among the points of all processes, and move them to the means of theirs.

    Args:
        points: (T, M, width) float32, finite, at least K over all processes.
        codebook_size: K.
        generator: of the processor, in the same state in all processes.

    Returns:
        (M, K, width) float32.
    """
    num_subspaces, width = points.shape[1:]
    codebook = points.new_empty((num_subspaces, codebook_size, width))
    for m in range(num_subspaces):
        everyone = rows_of_ranks(points[:, m].contiguous())
        drawn = draw_centroids(everyone, everyone[:0], codebook_size, generator)
        # Fewer points differ than there are centroids: the rest are copies, which are never used.
        copies = torch.arange(codebook_size, device=drawn.device) % len(drawn)
        codebook[m] = drawn[copies]
    for _ in range(_REFINEMENTS):
        codes = nearest(points, codebook)
        counts, sums = count(codes, codebook_size), add_up(points, codes, codebook_size)
        sum_over_ranks(counts)
        sum_over_ranks(sums)
        counts = counts[..., None]
        codebook = torch.where(counts > 0, sums / counts, codebook)
    return codebook


def perplexity(counts: torch.Tensor) -> torch.Tensor:
    """Return (M,) float32: how many codes are in use, weighted by use; K if all are alike.

    That is exp of the entropy of each row of (M, K) counts; 1 where nothing was counted.
    """
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=torch.finfo(counts.dtype).tiny)
    entropy: torch.Tensor = torch.special.entr(shares).sum(dim=1)
    return entropy.exp()


def num_ranks() -> int:
    """Return how many processes there are in torch.distributed's default group; 1 without."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def sum_over_ranks(values: torch.Tensor) -> None:
    """Add up a tensor over all processes, in place."""
    if num_ranks() > 1:
        distributed.all_reduce(values)


def rows_of_ranks(rows: torch.Tensor) -> torch.Tensor:
    """Return the (T, ...) rows of all processes, one process after another; T may differ."""
    if num_ranks() == 1:
        return rows
    size = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.empty_like(size) for _ in range(num_ranks())]
    distributed.all_gather(sizes, size)
    longest = max(int(each) for each in sizes)
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(gathered, padded)
    return torch.cat([part[: int(each)] for part, each in zip(gathered, sizes, strict=True)])
