"""Cuts centroids into tiles of similar ones, all of the same size to within one.

First by halving: along the direction in which a part varies most, until parts are tiles. Then by
settling: neighbouring tiles are joined and cut again between their means, which makes them rounder.
Round tiles are told apart by their means, so a search looks into fewer of them: little more than
half as many for the same loss.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from memstore.codec.kernels.compiler import compiled

_POWER_STEPS = 8  # of the power method; the direction need not be exact


def cut(points: np.ndarray, tile: int, rounds: int, order: np.ndarray | None = None) -> np.ndarray:
    """Put points in an order in which tile t is [bounds[t], bounds[t + 1]), see `bounds`.

    Args:
        points: (K, width) float32, C-contiguous, finite.
        tile: the most points in a tile.
        rounds: of settling.
        order: (K,) int64, an order to settle further, such as that of the points before they moved
            a little; halving is left out.

    Returns:
        (K,) int64: the numbers of the points, ascending within a tile.
    """
    starts = bounds(len(points), tile)
    if order is None:
        order = np.arange(len(points))
        _halve(points, starts, order)
    else:
        order = order.copy()
    if len(starts) > 2:
        _settle(points, starts, order, rounds)
    for start, stop in pairwise(starts):
        order[start:stop].sort()
    return order


def bounds(num_points: int, tile: int) -> np.ndarray:
    """Return (T + 1,) int64: where each of the T = ceil(K / tile) tiles starts, and K."""
    num_tiles = -(-num_points // tile)
    return np.arange(num_tiles + 1) * num_points // num_tiles


@compiled
def _halve(points: np.ndarray, starts: np.ndarray, order: np.ndarray) -> None:
    first = np.zeros(len(starts), np.int64)  # a stack of ranges of tiles that are one part so far
    last = np.zeros(len(starts), np.int64)
    last[0] = len(starts) - 1
    depth = 1
    axis = np.empty(points.shape[1], np.float32)
    while depth:
        depth -= 1
        low, high = first[depth], last[depth]
        if high - low < 2:
            continue
        middle = (low + high) // 2
        part = order[starts[low] : starts[high]]
        _widest(points, part, axis)
        _divide(points, part, axis, starts[middle] - starts[low])
        first[depth], last[depth] = low, middle
        first[depth + 1], last[depth + 1] = middle, high
        depth += 2


@compiled
def _widest(points: np.ndarray, part: np.ndarray, axis: np.ndarray) -> None:
    """Set `axis` to about the direction of largest variance, by the power method."""
    width = points.shape[1]
    mean = np.zeros(width, np.float64)
    for i in part:
        for d in range(width):
            mean[d] += points[i, d]
    mean /= len(part)
    covariance = np.zeros((width, width), np.float64)
    centred = np.empty(width, np.float64)
    for i in part:
        for d in range(width):
            centred[d] = points[i, d] - mean[d]
        for d in range(width):
            for e in range(width):
                covariance[d, e] += centred[d] * centred[e]
    widest = 0
    for d in range(width):
        if covariance[d, d] > covariance[widest, widest]:
            widest = d
    direction = covariance[widest].copy()
    for _ in range(_POWER_STEPS):
        length = np.sqrt(np.sum(direction * direction))
        if length == 0:
            break
        direction /= length
        centred[:] = 0
        for d in range(width):
            for e in range(width):
                centred[d] += covariance[d, e] * direction[e]
        direction[:] = centred
    length = np.sqrt(np.sum(direction * direction))
    for d in range(width):
        axis[d] = direction[d] / length if length else 0.0


@compiled
def _divide(points: np.ndarray, part: np.ndarray, axis: np.ndarray, count: int) -> None:
    """Reorder `part` so that the `count` points that lie least far along `axis` come first."""
    along = np.empty(len(part), np.float32)
    for i in range(len(part)):
        total = np.float32(0)
        for d in range(len(axis)):
            total += points[part[i], d] * axis[d]
        along[i] = total
    low, high = 0, len(part) - 1
    while low < high:  # Hoare's selection
        pivot = along[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while along[i] < pivot:
                i += 1
            while along[j] > pivot:
                j -= 1
            if i <= j:
                along[i], along[j] = along[j], along[i]
                part[i], part[j] = part[j], part[i]
                i += 1
                j -= 1
        if count <= j:
            high = j
        elif count >= i:
            low = i
        else:
            break


@compiled
def _settle(points: np.ndarray, starts: np.ndarray, order: np.ndarray, rounds: int) -> None:
    """Join tiles in pairs of neighbours and cut each pair between the two means, `rounds` times."""
    num_tiles, width = len(starts) - 1, points.shape[1]
    means = np.empty((num_tiles, width), np.float32)
    for t in range(num_tiles):
        _average(points, order[starts[t] : starts[t + 1]], means[t])
    axis = np.empty(width, np.float32)
    pair = np.empty(2 * (starts[1] - starts[0] + 1), np.int64)
    for settled in range(rounds):
        is_free = np.ones(num_tiles, np.bool_)
        # Another first tile each time, and chance in the choice of a neighbour: other pairs.
        shift = settled * 2654435761 % num_tiles
        for k in range(num_tiles):
            t = (k + shift) % num_tiles
            if not is_free[t]:
                continue
            is_free[t] = False
            other = _neighbour(means, is_free, t, settled)
            if other < 0:
                break
            is_free[other] = False
            a, b = order[starts[t] : starts[t + 1]], order[starts[other] : starts[other + 1]]
            joined = pair[: len(a) + len(b)]
            joined[: len(a)] = a
            joined[len(a) :] = b
            for d in range(width):
                axis[d] = means[other, d] - means[t, d]
            _divide(points, joined, axis, len(a))
            a[:] = joined[: len(a)]
            b[:] = joined[len(a) :]
            _average(points, a, means[t])
            _average(points, b, means[other])


@compiled
def _average(points: np.ndarray, part: np.ndarray, mean: np.ndarray) -> None:
    mean[:] = 0
    for i in part:
        for d in range(len(mean)):
            mean[d] += points[i, d]
    mean /= np.float32(len(part))


@compiled
def _neighbour(means: np.ndarray, is_free: np.ndarray, tile: int, salt: int) -> int:
    """Return a free tile near this one, not always the same: distances grow by chance, up to 4x."""
    num_tiles, width = means.shape
    nearest, least = -1, np.float32(np.inf)
    state = np.uint32(tile * 40503 + salt * 2654435 + 1)
    for t in range(num_tiles):
        if not is_free[t]:
            continue
        distance = np.float32(0)
        for d in range(width):
            difference = means[t, d] - means[tile, d]
            distance += difference * difference
        state = np.uint32(np.uint64(state) * np.uint64(1664525) + np.uint64(1013904223))
        distance *= np.float32(1) + np.float32(state >> 8) * np.float32(3 / (1 << 24))
        if distance < least:
            nearest, least = t, distance
    return nearest
