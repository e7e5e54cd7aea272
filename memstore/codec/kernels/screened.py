"""Exact nearest-centroid search in two passes: all centroids by int8, then the few near ones.

Let P(v) be (v - o) / s with every coordinate clipped to +-127, q(v) the integers nearest to P(v),
and r(v) = |P(v) - q(v)|, for an offset o and a scale s of the subspace. Clipping moves no two
points apart, so for every vector x and centroid c

    |x - c| / s  >=  |P(x) - P(c)|  >=  |q(x) - q(c)| - r(x) - r(c).

If some centroid is at the distance d from x, the nearest is at most that far, so it and its equals
are among the c with

    |q(x) - q(c)|  <=  d / s + r(x) + max r.                                               (1)

The first pass finds every |q(x) - q(c)|^2, an exact integer. The second takes d from a centroid
that has the smallest, and computes the distances of all that satisfy (1), in float64 from the
stored codebook: a few of 65,536. So the codes are those of a search in float64, whatever the data,
o and s; of equal distances the lowest index wins; and a code depends on neither the batch nor the
machine. Outliers among vectors or centroids cost time, never a wrong code.

Does not: check shapes and dtypes; run on every machine and codebook (`is_suited`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memstore.codec.buffers import aligned_empty
from memstore.codec.kernels import int8
from memstore.codec.kernels.compiler import compiled, read_only
from memstore.codec.kernels.distance import as_records, prefetch, square_distance
from memstore.codec.kernels.int8 import LANES, LOWEST, PANEL, STEPS, TILES, TOKENS
from memstore.codec.kernels.threads import run_chunks

MAX_WIDTH = 64  # loops over the width are unrolled
MIN_SIZE = 4_096  # centroids; with fewer, or fewer values, the second pass costs more than the
MIN_VALUES = 65_536  # first saves
_BLOCK = 32  # vectors that share one pass over a subspace's centroids; their maxima stay in the L2
_SPAN = 24 * _BLOCK  # vectors that pass through all subspaces before the next do
_MIN_CHUNK_FLOPS = 20_000_000  # about 0.1 ms: less is not worth waking another thread for

_CLIP = 127
_SHIFT = 128  # added to a centroid's integers: the instruction wants one side unsigned
_TAIL = 1 / 1_024  # of each coordinate's values lie beyond the range that is not clipped, each side
_SAMPLE = 8_192  # centroids that the range is taken from
_SLACK = 1e-6  # steps of the lattice; covers the rounding of P, r and d / s in float64
_FLOOR = -(1 << 24)  # below every score of up to MAX_WIDTH products, above LOWEST + any of them
_LIST = 64  # centroids that are asked for from memory before their distances are computed


@dataclass(frozen=True)
class Screen:
    """A codebook laid out for `assign`: 1 + 4/width bytes a value, and the codebook itself.

    Attributes:
        steps: (M, num_steps) records of `int8.step_dtype`: q(c) + 128, and -|q(c)|^2 / 2, rounded
            up, as the start. Centroids past K, and copies of an earlier one, start at LOWEST.
        offset: (M, width) float64.
        scale: (M,) float64, positive.
        error: (M,) float64, the largest r(c).
        codebook: (M, K) records of width float32, or uint16 that are the bits of bfloat16.
    """

    steps: np.ndarray
    offset: np.ndarray
    scale: np.ndarray
    error: np.ndarray
    codebook: np.ndarray


def is_suited(codebook_shape: tuple[int, int, int]) -> bool:
    """Return whether a codebook of (M, K, width) is searched faster this way on this machine."""
    _, codebook_size, width = codebook_shape
    is_large = codebook_size >= MIN_SIZE and codebook_size * width >= MIN_VALUES
    return int8.is_supported() and is_large and width <= MAX_WIDTH


def prepare(codebook: np.ndarray) -> Screen:
    """Lay a codebook out for `assign`.

    Args:
        codebook: (M, K, width) float32 or bfloat16, finite, C-contiguous, width <= MAX_WIDTH.
            Kept, not copied, and not to be changed afterwards.
    """
    num_subspaces, codebook_size, width = codebook.shape
    num_steps = PANEL // LANES * -(-codebook_size // PANEL)
    screen = Screen(
        aligned_empty((num_subspaces, num_steps), int8.step_dtype(width)),
        np.empty((num_subspaces, width)),
        np.empty(num_subspaces),
        np.empty(num_subspaces),
        as_records(codebook if codebook.dtype == np.float32 else codebook.view(np.uint16)),
    )

    def prepare_range(start: int, stop: int) -> int:
        for m in range(start, stop):
            _prepare_subspace(codebook[m], m, screen)
        return stop

    run_chunks(prepare_range, num_subspaces, min_items=1)
    return screen


def _prepare_subspace(stored: np.ndarray, m: int, screen: Screen) -> None:
    centroids = stored.astype(np.float32)  # (K, width)
    sample = centroids[:: -(-len(centroids) // _SAMPLE)].astype(np.float64)
    low, high = np.quantile(sample, [_TAIL, 1 - _TAIL], axis=0)
    if not (high > low).any():
        low, high = centroids.min(axis=0).astype(np.float64), centroids.max(axis=0)
    screen.offset[m] = low + (high - low) / 2
    screen.scale[m] = (high - low).max() / (2 * _CLIP) or 1.0
    start, integers = screen.steps["start"][m], screen.steps["centroids"][m]
    screen.error[m] = _lay_out(centroids, screen.offset[m], screen.scale[m], start, integers)
    copies = _copies(stored)
    start[copies // LANES, copies % LANES] = LOWEST


def _copies(rows: np.ndarray) -> np.ndarray:
    """Return which of (K, width) rows have the bits of an earlier one.

    A copy never wins; were it kept, a codebook with many would have them all settled.
    """
    bits = rows.view(np.uint32 if rows.itemsize == 4 else np.uint16)
    factors = np.random.default_rng(0).integers(1, 1 << 63, rows.shape[1], np.uint64)
    keys = bits.astype(np.uint64) @ factors  # equal rows have equal keys
    in_order = np.sort(keys)
    if (in_order[1:] != in_order[:-1]).all():  # almost always, and four times as fast
        return np.empty(0, np.int64)
    _, firsts, numbers = np.unique(keys, return_index=True, return_inverse=True)
    earlier = firsts[numbers]
    is_copy = (bits == bits[earlier]).all(axis=1) & (earlier != np.arange(len(rows)))
    return np.flatnonzero(is_copy)


@compiled
def _lay_out(
    centroids: np.ndarray,
    offset: np.ndarray,
    scale: float,
    start: np.ndarray,
    integers: np.ndarray,
) -> float:
    """Fill a subspace's steps; return the largest r(c)."""
    size, width = centroids.shape
    worst = 0.0
    start[:] = LOWEST
    integers[:] = _SHIFT
    for k in range(size):
        step, lane = k // LANES, k % LANES
        square, remainder = np.int64(0), 0.0
        for d in range(width):
            clipped = _clip((np.float64(centroids[k, d]) - offset[d]) / scale)
            rounded = np.rint(clipped)
            remainder += (clipped - rounded) ** 2
            integer = np.int64(rounded)
            square += integer * integer
            integers[step, d // 4, lane, d % 4] = integer + _SHIFT
        start[step, lane] = -(square // 2)
        worst = max(worst, remainder)
    return float(np.sqrt(worst))


@compiled
def _clip(value: float) -> float:
    return min(max(value, -np.float64(_CLIP)), np.float64(_CLIP))


def assign(vectors: np.ndarray, screen: Screen, codes: np.ndarray) -> bool:
    """Find the nearest centroid of every subvector, as `reference.assign` does.

    Args:
        vectors: (N, D) float32, C-contiguous.
        screen: from `prepare`.
        codes: (N, at least M) uint8 or uint16, C-contiguous; the first M columns are filled.

    Returns:
        False if a value was not finite; then `codes` is not to be used.

    Cost: N K D int8 products, and for a vector and subspace a few distances; all K of them for
    vectors that are much nearer to many centroids than those are apart on the scale of the
    subspace. Scratch a thread: 0.4 MB at K = 65,536, whatever N.
    """
    num_subspaces, num_steps = screen.steps.shape
    width = screen.offset.shape[1]
    rows = read_only(vectors.reshape(len(vectors), num_subspaces, width))
    steps, codebook = read_only(screen.steps), read_only(screen.codebook)
    offset, scale, error = map(read_only, (screen.offset, screen.scale, screen.error))
    item_flops = 2 * min(len(vectors), _SPAN) * num_steps * LANES * width
    finite = run_chunks(
        lambda start, stop: _search(
            rows, steps, offset, scale, error, codebook, codes, start, stop
        ),
        num_subspaces * -(-len(vectors) // _SPAN),
        min_items=1 + _MIN_CHUNK_FLOPS // max(item_flops, 1),
    )
    return all(finite)


class _Block(NamedTuple):
    """Scratch of one thread; the first axis, of _BLOCK, is the vector."""

    values: np.ndarray  # (_, width) float64: x
    rounded: np.ndarray  # (_, width up to a multiple of 4) int8: q(x)
    square: np.ndarray  # (_,) int64: |q(x)|^2
    shift: np.ndarray  # (_,) int64: what _SHIFT adds to every score
    error: np.ndarray  # (_,) float64: r(x) + max r, and slack
    maxima: np.ndarray  # (_, num_panels * TILES, LANES) int32: the largest scores of each tile
    tops: np.ndarray  # (_, num_panels, LANES) int32: the largest of each panel
    tiles: np.ndarray  # (_, num_panels * TILES) int32: those that may hold the nearest
    num_tiles: np.ndarray  # (_,) int64: how many of them
    limit: np.ndarray  # (_,) int32: the least score that they were listed for
    best: np.ndarray  # (_,) float64: the smallest |x - c|^2 so far
    code: np.ndarray  # (_,) int64: its centroid


@compiled
def _search(
    vectors: np.ndarray,
    steps: np.ndarray,
    offset: np.ndarray,
    scale: np.ndarray,
    error: np.ndarray,
    codebook: np.ndarray,
    codes: np.ndarray,
    start: int,
    stop: int,
) -> bool:
    """Search items [start, stop) of the grid (ceil(N / _SPAN) spans of vectors, M subspaces)."""
    num_vectors, num_subspaces, width = vectors.shape
    block = _new_block(width, steps.shape[1] // (STEPS * TILES))
    found = np.empty((_LIST, 2), np.int64)
    for item in range(start, stop):
        m = item % num_subspaces
        span = item // num_subspaces * _SPAN
        table, centroids = steps[m], codebook[m]
        for first in range(span, min(span + _SPAN, num_vectors), _BLOCK):
            count = min(_BLOCK, num_vectors - first)
            for i in range(count):
                if not _round(block, i, vectors[first + i, m], offset[m], scale[m], error[m]):
                    return False
            _score(block, count, table)
            for i in range(count):
                _guess(block, i, table, centroids)
            _settle(block, count, table, centroids, scale[m], found)
            for i in range(count):
                codes[first + i, m] = block.code[i]
    return True


@compiled
def _new_block(width: int, num_panels: int) -> _Block:
    return _Block(
        np.empty((_BLOCK, width), np.float64),
        np.zeros((_BLOCK, (width + 3) // 4 * 4), np.int8),
        np.empty(_BLOCK, np.int64),
        np.empty(_BLOCK, np.int64),
        np.empty(_BLOCK, np.float64),
        np.empty((_BLOCK, num_panels * TILES, LANES), np.int32),
        np.empty((_BLOCK, num_panels, LANES), np.int32),
        np.empty((_BLOCK, num_panels * TILES), np.int32),
        np.empty(_BLOCK, np.int64),
        np.empty(_BLOCK, np.int32),
        np.empty(_BLOCK, np.float64),
        np.empty(_BLOCK, np.int64),
    )


@compiled
def _round(
    block: _Block, i: int, vector: np.ndarray, offset: np.ndarray, scale: float, error: float
) -> bool:
    """Bring in vector number i; False if it is not finite."""
    square, total, remainder = np.int64(0), np.int64(0), 0.0
    for d in range(len(vector)):
        value = np.float64(vector[d])
        if not np.isfinite(value):
            return False
        clipped = _clip((value - offset[d]) / scale)
        rounded = np.rint(clipped)
        remainder += (clipped - rounded) ** 2
        integer = np.int64(rounded)
        square += integer * integer
        total += integer
        block.values[i, d] = value
        block.rounded[i, d] = integer
    block.square[i] = square
    block.shift[i] = _SHIFT * total
    block.error[i] = np.sqrt(remainder) + error + _SLACK
    return True


@compiled
def _score(block: _Block, count: int, steps: np.ndarray) -> None:
    """Fill `maxima` and `tops` of the first `count` vectors (and up to TOKENS - 1 more)."""
    num_panels = block.tops.shape[1]
    for panel in range(num_panels):
        for i in range(0, count, TOKENS):
            int8.score_panel(block.rounded, i, steps, panel, num_panels, block.maxima, block.tops)


@compiled
def _limit(block: _Block, i: int, reach: float) -> np.int32:
    """Return the least score of a centroid with |q(x) - q(c)| <= reach.

    A score is q(x).q(c) - |q(c)|^2 / 2, rounded up, plus the shift; so |q(x) - q(c)|^2 is
    |q(x)|^2 - 2 (score - shift), or one more.
    """
    bound = (block.square[i] - reach * reach) / 2 + block.shift[i]
    return np.int32(max(np.floor(bound), _FLOOR))


@compiled
def _list_tiles(block: _Block, i: int, limit: np.int32) -> None:
    """List the tiles with a score of at least `limit`."""
    num_panels = block.tops.shape[1]
    count = 0
    for panel in range(num_panels):
        if int8.reaches(block.tops, i * num_panels + panel, limit):
            for tile in range(panel * TILES, (panel + 1) * TILES):
                if int8.reaches(block.maxima, i * block.maxima.shape[1] + tile, limit):
                    block.tiles[i, count] = tile
                    count += 1
    block.num_tiles[i] = count


@compiled
def _guess(block: _Block, i: int, steps: np.ndarray, codebook: np.ndarray) -> None:
    """Set `code` to the first centroid with the best score, and list the tiles that are near.

    Near is what (1) says if nothing was clipped: then d / s <= |q(x) - q(c)| + r(x) + r(c).
    """
    num_panels = block.tops.shape[1]
    top = int8.largest(block.tops, i * num_panels, num_panels)
    nearest = np.sqrt(block.square[i] - 2.0 * (top - block.shift[i]) + 1)
    block.limit[i] = _limit(block, i, nearest + 2 * block.error[i])
    _list_tiles(block, i, block.limit[i])
    for j in range(block.num_tiles[i]):
        tile = block.tiles[i, j]
        if int8.reaches(block.maxima, i * block.maxima.shape[1] + tile, top):
            for step in range(tile * STEPS, (tile + 1) * STEPS):
                mask = int8.step_mask(block.rounded, i, steps, step, top)
                if mask:
                    block.code[i] = step * LANES + int8.lowest_bit(mask)
                    prefetch(codebook, block.code[i])
                    return


@compiled
def _settle(
    block: _Block,
    count: int,
    steps: np.ndarray,
    codebook: np.ndarray,
    scale: float,
    found: np.ndarray,
) -> None:
    """Compare the guess of each vector with all centroids that (1) leaves."""
    num_found = 0
    for i in range(count):
        guess = block.code[i]
        block.best[i] = square_distance(block.values, i, codebook, guess)
        reach = np.sqrt(block.best[i]) / scale * (1 + _SLACK) + block.error[i]
        limit = _limit(block, i, reach)
        if limit < block.limit[i]:  # something was clipped
            _list_tiles(block, i, limit)
        for j in range(block.num_tiles[i]):
            tile = block.tiles[i, j]
            if not int8.reaches(block.maxima, i * block.maxima.shape[1] + tile, limit):
                continue
            for step in range(tile * STEPS, (tile + 1) * STEPS):
                mask = int8.step_mask(block.rounded, i, steps, step, limit)
                while mask:
                    centroid = step * LANES + int8.lowest_bit(mask)
                    mask &= mask - 1
                    if centroid != guess:
                        prefetch(codebook, centroid)
                        found[num_found, 0], found[num_found, 1] = i, centroid
                        num_found += 1
                        if num_found == _LIST:
                            _compare(block, found, num_found, codebook)
                            num_found = 0
    _compare(block, found, num_found, codebook)


@compiled
def _compare(block: _Block, found: np.ndarray, num_found: int, codebook: np.ndarray) -> None:
    """Replace codes by nearer centroids, and by equally near ones of a lower index."""
    for k in range(num_found):
        i, centroid = found[k, 0], found[k, 1]
        distance = square_distance(block.values, i, codebook, centroid)
        is_lower = distance == block.best[i] and centroid < block.code[i]
        if distance < block.best[i] or is_lower:
            block.best[i] = distance
            block.code[i] = centroid
