"""Nearest-centroid search that looks at a part of the centroids: fast, with a small stated loss.

A subspace's centroids are cut into tiles of at most 64 similar ones (see `cutting`). A vector is
scored against the mean of every tile, and then against the centroids of the tiles whose means score
best, the probes. Scores are sums of 16-bit products: vectors and centroids are rounded to whole
steps, some 14,000 over the range of a subspace's centroids, which is finer than bfloat16 there, and
takes half the memory traffic of float32 and, where the CPU has VNNI, a quarter of the instructions.

Loss: by how much the mean squared error on held-out points exceeds that of exhaustive search. How
many probes a subspace needs for a loss of 1 % follows from its centroids (see `calibration`): few
where its dimensions are correlated, dozens of a thousand where they are independent.

Differs: an inverted file (Jégou et al. 2011) has lists of unequal length; tiles are of one size, so
that a scan is a fixed number of instructions without a branch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memstore.codec.buffers import aligned_empty
from memstore.codec.kernels.calibration import needed_probes
from memstore.codec.kernels.compiler import compiled, read_only
from memstore.codec.kernels.cutting import bounds, cut
from memstore.codec.kernels.lanes import (
    LOWEST,
    TILE,
    TOKENS,
    collect,
    count,
    fold,
    largest,
    scan_tile,
    score_rows,
)
from memstore.codec.kernels.threads import run_chunks

_ROUNDS = 40  # of settling; twice as many save next to no probes
_SPAN = 512 * TOKENS  # vectors that share a subspace's tiles before the next subspace's are read
_TOPS = 4 * TILE


@dataclass(frozen=True, slots=True)
class ProbedCodebook:
    """A codebook laid out for `assign`; T tiles a subspace.

    Args:
        roots: (M, ceil(T / 64), 1 + pairs, 64) int32, the means of the tiles, themselves tiled.
        leaves: (M, T, 1 + pairs, 64) int32, the tiles: -|c|^2/2, then the centroids in pairs of
            int16, transposed. Columns past a tile's end score lowest.
        members: (M, T, 64) uint16, the codes of a tile's centroids, ascending.
        offset: (M, width) float32, what is taken from a vector before it is rounded.
        inverse_step: (M,) float32.
        limit: the largest step of a vector; values further out are taken to be there.
        order: (M, K) int64, the codes tile by tile.
        num_probes: (M,) int64, the tiles to look into: from `prepare`, as many as keep the loss
            below 1 %; from `lay_out`, all.
    """

    roots: np.ndarray
    leaves: np.ndarray
    members: np.ndarray
    offset: np.ndarray
    inverse_step: np.ndarray
    limit: int
    order: np.ndarray
    num_probes: np.ndarray


def prepare(codebook: np.ndarray) -> ProbedCodebook:
    """Cut a codebook into tiles, lay them out, and find how many to look into for a loss of 1 %.

    Args:
        codebook: (M, K, width) float32 or bfloat16, finite, K <= 65,536.

    Cost: 0.4 s a subspace of 65,536 centroids 16 wide, on one core; 2.4 bytes of memory a value.
    """
    probed = lay_out(codebook)
    starts = bounds(codebook.shape[1], TILE)

    def calibrate(first: int, last: int) -> int:
        for m in range(first, last):
            centroids = codebook[m].astype(np.float32)
            probed.num_probes[m] = needed_probes(centroids, probed.order[m], starts)
        return 0

    run_chunks(calibrate, len(codebook), min_items=1)
    return probed


def lay_out(
    codebook: np.ndarray, *, rounds: int = _ROUNDS, order: np.ndarray | None = None
) -> ProbedCodebook:
    """Cut a codebook into tiles and lay them out, for searches that say how many to look into.

    Args:
        codebook: as for `prepare`.
        rounds: of settling the tiles; more make rounder tiles.
        order: from a codebook that is nearly the same, to start from.
    """
    num_subspaces, codebook_size, width = codebook.shape
    starts = bounds(codebook_size, TILE)
    num_tiles, depth = len(starts) - 1, 1 + (width + 1) // 2
    num_roots = -(-num_tiles // TILE)
    if num_roots * TILE > _TOPS:
        num_roots = _TOPS // TILE * -(-num_roots * TILE // _TOPS)
    # A score is at most width * 2 limit * limit + width * limit^2 / 2, which must fit in 31 bits.
    limit = min(int(np.sqrt((1 << 31) / (2.5 * width))) - 1, (1 << 14) - 1)
    probed = ProbedCodebook(
        roots=_aligned((num_subspaces, num_roots, depth, TILE)),
        leaves=_aligned((num_subspaces, num_tiles, depth, TILE)),
        members=np.zeros((num_subspaces, num_tiles, TILE), np.uint16),
        offset=np.empty((num_subspaces, width), np.float32),
        inverse_step=np.empty(num_subspaces, np.float32),
        limit=2 * limit,
        order=np.empty((num_subspaces, codebook_size), np.int64),
        num_probes=np.full(num_subspaces, num_tiles),
    )
    sizes = np.diff(starts)
    places = np.arange(codebook_size) + np.repeat(TILE * np.arange(num_tiles) - starts[:-1], sizes)

    def fill(first: int, last: int) -> int:
        for m in range(first, last):
            centroids = np.ascontiguousarray(codebook[m], dtype=np.float32)
            steps = _steps(centroids, probed, m, limit)
            before = None if order is None else order[m]
            probed.order[m] = cut(steps.astype(np.float32), TILE, rounds, before)
            steps = steps[probed.order[m]]
            means = np.add.reduceat(steps, starts[:-1]) / sizes[:, None]
            _fill(probed.roots[m], np.rint(means), np.arange(num_tiles))
            _fill(probed.leaves[m], np.rint(steps), places)
            probed.members[m].reshape(-1)[places] = probed.order[m]
        return 0

    run_chunks(fill, num_subspaces, min_items=1)
    return probed


def assign(
    vectors: np.ndarray, probed: ProbedCodebook, codes: np.ndarray, *, num_probes: int | None = None
) -> bool:
    """Find a near centroid of every subvector, mostly the nearest.

    A vector's codes do not depend on the batch, nor on the number of threads. Of several centroids
    that were looked at and score the same, the lowest code is taken.

    Args:
        vectors: (N, D) float32, C-contiguous.
        probed: from `prepare` or `lay_out`.
        codes: (N, at least M) uint8 or uint16, C-contiguous; the first M columns are filled.
        num_probes: tiles to look into, at least 1; up to an eighth more are. With as many as there
            are tiles, the search is exact but for rounding. Those of `probed` if not given.

    Returns:
        False if a value was not finite; then `codes` is not to be used.

    Cost: N M (T + 64 num_probes) width products of 16 bits. Batches of fewer than about a thousand
    vectors wait for the tiles to come from memory.
    """
    num_subspaces, width = probed.offset.shape
    rows = read_only(vectors.reshape(len(vectors), num_subspaces, width))
    roots, leaves, members = (
        read_only(array) for array in (probed.roots, probed.leaves, probed.members)
    )
    offset, inverse_step = read_only(probed.offset), read_only(probed.inverse_step)
    limit = np.float32(probed.limit)
    if num_probes is None:
        probes = read_only(probed.num_probes)
    else:
        probes = read_only(np.full(num_subspaces, num_probes))
    fixed = rows, roots, leaves, members, offset, inverse_step, limit, codes, probes
    finite = run_chunks(
        lambda start, stop: _probe(*fixed, start, stop),
        num_subspaces * -(-len(vectors) // _SPAN),
        min_items=1 + 100 // max(min(len(vectors), _SPAN), 1),
    )
    return all(finite)


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Return int32 columns that score lowest, on a boundary of cache lines."""
    array = aligned_empty(shape, np.int32)
    array[..., 0, :] = LOWEST
    array[..., 1:, :] = 0
    return array


def _steps(centroids: np.ndarray, probed: ProbedCodebook, m: int, limit: int) -> np.ndarray:
    """Choose the steps of subspace m; return the centroids in them, (K, width) float64."""
    low, high = centroids.min(axis=0).astype(np.float64), centroids.max(axis=0).astype(np.float64)
    reach = float((high - low).max()) / 2
    probed.offset[m] = (low + high) / 2
    # Without a reach, all centroids are equal and any step will do.
    probed.inverse_step[m] = min(limit / reach, 1e38) if reach else 1
    steps: np.ndarray = (centroids - probed.offset[m].astype(np.float64)) * probed.inverse_step[m]
    return steps.clip(-limit, limit)


def _fill(tiles: np.ndarray, rows: np.ndarray, places: np.ndarray) -> None:
    """Write rows, (n, width) whole numbers, to these columns of (tiles, 1 + pairs, TILE)."""
    num_tiles, depth, _ = tiles.shape
    halves = np.zeros((num_tiles * TILE, 2 * (depth - 1)), np.int16)
    halves[places, : rows.shape[1]] = rows
    words = halves.view(np.int32).reshape(num_tiles, TILE, depth - 1)
    tiles[:, 1:] = words.transpose(0, 2, 1)
    start = np.full(num_tiles * TILE, LOWEST, np.int32)
    start[places] = np.floor(-np.square(rows).sum(axis=1) / 2)
    tiles[:, 0] = start.reshape(num_tiles, TILE)


@compiled
def _probe(
    vectors: np.ndarray,
    roots: np.ndarray,
    leaves: np.ndarray,
    members: np.ndarray,
    offset: np.ndarray,
    inverse_step: np.ndarray,
    limit: np.float32,
    codes: np.ndarray,
    num_probes: np.ndarray,
    start: int,
    stop: int,
) -> bool:
    """Search items [start, stop) of the grid (ceil(N / _SPAN) spans of vectors, M subspaces)."""
    num_vectors, num_subspaces, _ = vectors.shape
    _, num_roots, depth, _ = roots.shape
    num_tiles, pairs = leaves.shape[1], depth - 1
    flat_roots, flat_leaves = roots.reshape(roots.size), leaves.reshape(leaves.size)
    halves = np.zeros((TOKENS, 2 * pairs), np.int16)
    rows = halves.reshape(halves.size).view(np.int32)
    num_ranks = num_roots * TILE
    ranks = np.empty(TOKENS * num_ranks, np.int32)
    picked = np.empty(num_ranks, np.int32)
    scores = np.empty(TILE, np.int32)
    all_tops = np.empty(num_ranks, np.int32)
    is_finite = True
    for item in range(start, stop):
        m = item % num_subspaces
        span = item // num_subspaces * _SPAN
        wanted = min(num_probes[m], num_tiles)
        is_folded = num_ranks > _TOPS and wanted <= _TOPS // 2
        tops = all_tops[:_TOPS] if is_folded else all_tops
        for first in range(span, min(span + _SPAN, num_vectors), TOKENS):
            num_rows = min(TOKENS, num_vectors - first)
            for i in range(num_rows):
                is_finite &= _round(vectors, first + i, m, offset, inverse_step, limit, halves[i])
            for root in range(num_roots):
                tile_at = (m * num_roots + root) * depth * TILE
                score_rows(rows, flat_roots, tile_at, pairs, ranks, root * TILE, num_ranks)
            for i in range(num_rows):
                num_picked = _pick(ranks, i * num_ranks, tops, wanted, picked)
                best, code = np.int32(LOWEST), np.int64(0)
                for k in range(num_picked):
                    tile = m * num_tiles + picked[k]
                    tile_at = tile * depth * TILE
                    if scan_tile(rows, i * pairs, flat_leaves, tile_at, pairs, best, scores):
                        score, column = largest(scores)
                        found = np.int64(members[m, picked[k], column])
                        code = found if score > best else min(code, found)
                        best = score
                codes[first + i, m] = code
    return is_finite


@compiled
def _round(
    vectors: np.ndarray,
    n: int,
    m: int,
    offset: np.ndarray,
    inverse_step: np.ndarray,
    limit: np.float32,
    halves: np.ndarray,
) -> bool:
    """Set `halves` to the steps of one subvector; return if it was finite."""
    is_finite = True
    for d in range(vectors.shape[2]):
        value = vectors[n, m, d]
        is_finite &= np.isfinite(value)
        steps = (value - offset[m, d]) * inverse_step[m]
        steps = min(max(steps, -limit), limit)
        halves[d] = np.int16(np.floor(steps + np.float32(0.5)))
    return is_finite


@compiled
def _pick(ranks: np.ndarray, first: int, tops: np.ndarray, wanted: int, picked: np.ndarray) -> int:
    """Fill `picked` with at least `wanted` places of largest rank; return how many.

    The threshold is found among `tops`, the largest of the few ranks that share one of them, by
    halving its range; up to an eighth more will do.
    """
    num_ranks, num_tops = len(picked), len(tops)
    lowest, high = fold(ranks, first, num_ranks, tops, num_tops)
    low = np.int32(max(lowest, LOWEST + 1))  # columns past the last tile are never picked
    num_above = num_tops
    while num_above > wanted + wanted // 8 and low < high:
        middle = np.int32((np.int64(low) + np.int64(high) + 1) >> 1)
        num = count(tops, num_tops, middle)
        if num >= wanted:
            low, num_above = middle, num
        else:
            high = np.int32(middle - 1)
    return int(collect(ranks, first, num_ranks, low, picked))
