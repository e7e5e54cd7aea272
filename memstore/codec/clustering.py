"""k-means for one subspace, from a few to 65,536 clusters.

Seeds are drawn as k-means++ draws them, each in proportion to the squared distance from the nearest
seed so far, but within one of about sqrt(K) cells at a time: N sqrt(K) distances instead of N K.
Points are assigned by exhaustive search up to 1,024 clusters and by probing above. Means move half
as far again as Lloyd's, which takes fewer iterations.

With few points a cluster, a mean follows the accidents of the sample, and the error on other points
is well above that on the sample. So a point is assigned as if it lay a little aside, at random: a
mean then takes in points of its neighbours too. What that is worth fades out as points become many.

Does not: weight points, or depend on the number of threads: the same seed and points give the same
centroids on the same machine.

Source: Lloyd 1982; k-means++ (Arthur & Vassilvitskii 2007).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from memstore.codec.kernels import cpu, probed
from memstore.codec.kernels.compiler import compiled
from memstore.codec.kernels.threads import run_chunks
from memstore.errors import ShapeError

_EXACT_CLUSTERS = 1024  # up to here, searching all is as fast as probing
_NUM_PROBES = 8  # exhaustive search ends at an error lower by 0.2 % at most
_ROUNDS = 4  # of settling tiles between two iterations: centroids move little
_STRIDE = 1.5  # how far a mean moves, of the way; 1 is Lloyd's, from 2 on it does not settle
_BLUR = 2.0, 0.5  # the shift in residuals: 2 / sqrt(points a cluster), at most a half
_POINTS_A_CELL = 64  # that cells are found from
_CELL_ITERATIONS = 5

Progress = Callable[[int, float], None]


def kmeans(
    points: np.ndarray,
    num_clusters: int,
    *,
    seed: int,
    max_iterations: int = 25,
    tolerance: float = 2e-3,
    progress: Progress | None = None,
) -> np.ndarray:
    """Find centroids that are near the points.

    Stops when an iteration has lowered the distortion by less than `tolerance` of it. A cluster
    left without points takes over part of the one with the largest distortion.

    Args:
        points: (N, width) float32, C-contiguous, N >= K.
        num_clusters: K, from 1 to 65,536.
        seed: decides what is drawn.
        max_iterations: at least 1.
        tolerance: a share.
        progress: called after each iteration with its number, from 1, and the distortion that it
            started from: the mean squared distance of a point from the centroid it is assigned to.

    Returns:
        (K, width) float32, finite.

    Raises:
        ShapeError: if a point is not finite; `row` in its details.
    """
    bad_rows = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad_rows):
        raise ShapeError(f"points: row {bad_rows[0]} holds NaN or infinity", row=int(bad_rows[0]))
    rng = np.random.default_rng(seed)
    centroids = _seed(points, num_clusters, rng)
    return _iterate(points, centroids, rng, max_iterations, tolerance, progress)


def _iterate(
    points: np.ndarray,
    centroids: np.ndarray,
    rng: np.random.Generator,
    max_iterations: int,
    tolerance: float,
    progress: Progress | None,
) -> np.ndarray:
    num_points = len(points)
    blur = min(_BLUR[0] * np.sqrt(len(centroids) / num_points), _BLUR[1])
    codes = np.empty((num_points, 1), np.uint16)
    blurred, order = points, None
    before = np.inf
    for iteration in range(1, max_iterations + 1):
        order = _assign(blurred, centroids, codes, order)
        clusters = _Clusters.of(points, codes[:, 0], centroids)
        distortion = float(clusters.errors.sum()) / num_points
        if progress is not None:
            progress(iteration, distortion)
        if iteration == max_iterations or before - distortion < tolerance * before:
            break
        if iteration > 1:  # the first is not blurred, and not to be compared with
            before = distortion
        blurred = np.empty_like(points)
        _shift(points, codes[:, 0], centroids, blur, int(rng.integers(num_points)), blurred)
        centroids = _move(points, centroids, clusters, _STRIDE)
    return _move(points, centroids, clusters, 1)


def _assign(
    points: np.ndarray, centroids: np.ndarray, codes: np.ndarray, order: np.ndarray | None
) -> np.ndarray | None:
    """Fill codes; return what the next call should be given as `order`."""
    if len(centroids) <= _EXACT_CLUSTERS:
        is_finite = cpu.assign(points, cpu.prepare(centroids[None]), codes)
    else:
        rounds = {} if order is None else {"rounds": _ROUNDS}
        prepared = probed.lay_out(centroids[None], order=order, **rounds)
        order = prepared.order
        is_finite = probed.assign(points, prepared, codes, num_probes=_NUM_PROBES)
    assert is_finite  # noqa: S101 (checked before; means and shifts of finite points are finite)
    return order


@dataclass(frozen=True, slots=True)
class _Clusters:
    """What the points assigned to each of K centroids add up to.

    Args:
        sums: (K, width) float64, the points.
        counts: (K,) int64.
        errors: (K,) float64, the squared distances from the centroid.
        farthest: (K,) int64, the number of the farthest point.
    """

    sums: np.ndarray
    counts: np.ndarray
    errors: np.ndarray
    farthest: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, codes: np.ndarray, centroids: np.ndarray) -> _Clusters:
        num_clusters = len(centroids)
        clusters = cls(
            sums=np.zeros(centroids.shape, np.float64),
            counts=np.zeros(num_clusters, np.int64),
            errors=np.zeros(num_clusters, np.float64),
            farthest=np.zeros(num_clusters, np.int64),
        )
        _add_up(
            points, codes, centroids,
            clusters.sums, clusters.counts, clusters.errors, clusters.farthest,
        )  # fmt: skip
        return clusters


def _move(
    points: np.ndarray, centroids: np.ndarray, clusters: _Clusters, stride: float
) -> np.ndarray:
    """Move centroids towards the means; an empty cluster takes over part of one with much error."""
    is_used = clusters.counts > 0
    means = clusters.sums / np.maximum(clusters.counts, 1)[:, None]
    moved = np.where(is_used[:, None], centroids + stride * (means - centroids), centroids)
    empty = np.flatnonzero(~is_used)
    worst = np.argsort(-clusters.errors, kind="stable")
    worst = worst[is_used[worst]][: len(empty)]
    empty = empty[: len(worst)]
    # Half way to the farthest point: it takes that side of the cluster, not one outlier.
    moved[empty] = (means[worst] + points[clusters.farthest[worst]]) / 2
    return np.ascontiguousarray(moved, dtype=np.float32)


def _seed(points: np.ndarray, num_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Draw K points as seeds, cell by cell, half of those still to draw at a time.

    What a cell is to have of them follows from what the seeds so far leave of its error.
    """
    num_cells = max(1, int(np.sqrt(num_clusters)))
    codes, cells = _cells(points, num_cells, rng)
    members = np.argsort(codes, kind="stable")
    found = _Clusters.of(points, codes, cells)
    bounds = np.concatenate([[0], np.cumsum(found.counts)])
    errors, drawn = found.errors, np.zeros(num_cells, np.int64)
    nearest = np.full(len(points), np.inf, np.float32)  # of the members: squared, to a seed
    draws, seeds = rng.random(num_clusters), np.empty(num_clusters, np.int64)
    num_drawn = 0
    while num_drawn < num_clusters:
        num_left = num_clusters - num_drawn
        num_next = max(num_left // 2, min(num_left, num_cells))
        shares = _shares(found.counts - drawn, errors, num_next, points.shape[1])
        firsts = num_drawn + np.concatenate([[0], np.cumsum(shares)])

        def draw(first: int, last: int, firsts: np.ndarray = firsts) -> int:
            for cell in range(first, last):
                part = slice(bounds[cell], bounds[cell + 1])
                mine = slice(firsts[cell], firsts[cell + 1])
                _draw(points, members[part], nearest[part], draws[mine], seeds[mine])
            return 0

        run_chunks(draw, num_cells, min_items=1)
        num_drawn, drawn = int(firsts[-1]), drawn + shares
        left = np.bincount(codes[members], np.where(nearest < np.inf, nearest, 0), num_cells)
        errors = np.where(drawn > 0, left, errors)
    return np.ascontiguousarray(points[seeds])


def _cells(
    points: np.ndarray, num_cells: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the points into cells by k-means on a few; return the cell of each, and the centroids."""
    num_points = len(points)
    sample = rng.choice(num_points, min(num_points, num_cells * _POINTS_A_CELL), replace=False)
    cells = points[sample[:num_cells]]
    sample.sort()
    cells = _iterate(points[sample], cells, rng, _CELL_ITERATIONS, 0, None)
    codes = np.empty((num_points, 1), np.uint16)
    _assign(points, cells, codes, None)
    return codes[:, 0], cells


def _shares(room: np.ndarray, errors: np.ndarray, num_seeds: int, width: int) -> np.ndarray:
    """Deal seeds out to cells, at most as many as a cell has room for.

    The error of k centroids falls as k^(-2/width), so the least total has k in proportion to the
    cell's error to the power of width / (width + 2) (Zador 1982).
    """
    weights = errors ** (width / (width + 2)) + 1e-30  # without error, any cell will do
    shares = np.zeros(len(room), np.int64)
    while (missing := num_seeds - shares.sum()) > 0:
        open_weights = np.where(room > shares, weights, 0)
        wanted = missing * open_weights / open_weights.sum()
        more = np.minimum(wanted.astype(np.int64), room - shares)
        if not more.any():  # less than one each: to those that want most of one
            most = np.argsort(-wanted, kind="stable")[:missing]
            more[most] = np.minimum(room - shares, 1)[most]
        shares += more
    return shares


@compiled
def _draw(
    points: np.ndarray,
    members: np.ndarray,
    nearest: np.ndarray,
    draws: np.ndarray,
    seeds: np.ndarray,
) -> None:
    """Choose len(seeds) more of `members` by D^2 sampling; `draws` are uniform in [0, 1).

    `nearest` holds the squared distance of each to its nearest seed, infinity before the first.
    """
    num_members, width = len(members), points.shape[1]
    cell = np.empty((width, num_members), np.float32)  # transposed: a distance a lane
    for i in range(num_members):
        for d in range(width):
            cell[d, i] = points[members[i], d]
    distance = np.empty(num_members, np.float32)
    for k in range(len(seeds)):
        is_first = nearest[0] == np.inf
        chosen = int(draws[k] * num_members) if is_first else _spin(nearest, draws[k])
        seeds[k] = members[chosen]
        distance[:] = 0
        for d in range(width):
            centre = cell[d, chosen]
            for i in range(num_members):
                difference = cell[d, i] - centre
                distance[i] += difference * difference
        for i in range(num_members):
            nearest[i] = min(nearest[i], distance[i])
        nearest[chosen] = 0


@compiled
def _spin(weights: np.ndarray, draw: float) -> int:
    """Return an index with probability in proportion to its weight."""
    total = 0.0
    for weight in weights:
        total += weight
    left = draw * total
    last = 0
    for i in range(len(weights)):
        if weights[i] > 0:
            last = i
            left -= weights[i]
            if left < 0:
                break
    return last


@compiled
def _add_up(
    points: np.ndarray,
    codes: np.ndarray,
    centroids: np.ndarray,
    sums: np.ndarray,
    counts: np.ndarray,
    errors: np.ndarray,
    farthest: np.ndarray,
) -> None:
    """Fill the arrays of `_Clusters`.

    On one thread, in the order of the points, so that rounding does not depend on threads; it takes
    a thirtieth of the time of the assignment.
    """
    largest = np.full(len(centroids), -1.0, np.float32)
    for n in range(len(points)):
        k = codes[n]
        distance = np.float32(0)
        for d in range(points.shape[1]):
            difference = points[n, d] - centroids[k, d]
            distance += difference * difference
            sums[k, d] += points[n, d]
        counts[k] += 1
        errors[k] += distance
        if distance > largest[k]:
            largest[k], farthest[k] = distance, n


@compiled
def _shift(
    points: np.ndarray,
    codes: np.ndarray,
    centroids: np.ndarray,
    blur: float,
    ahead: int,
    shifted: np.ndarray,
) -> None:
    """Shift each point by `blur` times the residual of the point that lies `ahead` of it."""
    share = np.float32(blur)
    for n in range(len(points)):
        other = (n + ahead) % len(points)
        k = codes[other]
        for d in range(points.shape[1]):
            shifted[n, d] = points[n, d] + share * (points[other, d] - centroids[k, d])
