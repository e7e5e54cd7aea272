"""Find the basis in which a product quantizer loses least.

PCA removes correlation; eigenvalue allocation then deals the principal axes out to the subspaces so
that all hold the same product of variances (Ge et al. 2013, section 4.2.2: optimal for Gaussian
data). The OPQ loop (section 4.1) goes on from there by turns of quantizing and Procrustes.
"""

from __future__ import annotations

import numpy as np

from memstore.codec.fit_predictor import add_by
from memstore.codec.rotation import Rotation
from memstore.errors import ConfigError

_OPQ_ROUNDS = 12
_OPQ_ROWS = 100_000


def fit_pca(covariance: np.ndarray, num_subspaces: int, block_width: int) -> Rotation:
    """Return the PCA basis with eigenvalue allocation, over blocks of dimensions.

    Args:
        covariance: (D, D) float64, of the vectors that will be quantized.
        num_subspaces: M, a divisor of D.
        block_width: b, a divisor of D and a multiple of D/M; D for a dense rotation.

    Raises:
        ConfigError: if b is not such.
    """
    dim = len(covariance)
    width = dim // num_subspaces
    if block_width < 1 or dim % block_width or block_width % width:
        raise ConfigError(
            f"rotation_block: got {block_width}, wanted a divisor of the dimension {dim} and a "
            f"multiple of the subspace width {width}"
        )
    order = np.arange(dim) if block_width == dim else _group(covariance, block_width)
    blocks = []
    for dims in order.reshape(-1, block_width):
        variances, axes = np.linalg.eigh(covariance[np.ix_(dims, dims)])
        allocation = _allocate(np.maximum(variances, 1e-30), block_width // width)
        blocks.append(axes[:, allocation].T)
    return Rotation(np.stack(blocks).astype(np.float32), order.astype(np.int32))


def fit_opq(vectors: np.ndarray, start: Rotation, num_subspaces: int, seed: int) -> Rotation:
    """Improve a dense rotation by turns: quantize with 256 centroids, then rotate to fit them.

    Args:
        vectors: (N, D) float32, what will be quantized.
        start: a dense rotation.
        num_subspaces: M.
        seed: of the quantizers.
    """
    from memstore.codec.kernels import cpu, reference
    from memstore.codec.training import train_codebook

    step = max(1, len(vectors) // _OPQ_ROWS)
    sample = np.ascontiguousarray(vectors[::step][:_OPQ_ROWS])
    matrix = start.matrix()
    rotated = sample @ matrix.T
    codebook = train_codebook(rotated, num_subspaces, min(256, len(sample)), seed=seed)
    codes = np.empty((len(sample), num_subspaces), np.uint16)
    for _ in range(_OPQ_ROUNDS):
        cpu.assign(rotated, cpu.prepare(codebook), codes)
        _move_centroids(codebook, codes, rotated)
        left, _, right = np.linalg.svd(reference.gather(codes, codebook).T @ sample)
        matrix = left @ right
        rotated = sample @ matrix.T
    return Rotation(matrix[None].astype(np.float32), start.order)


def _move_centroids(codebook: np.ndarray, codes: np.ndarray, vectors: np.ndarray) -> None:
    """Put every centroid in the mean of its vectors; one that has none stays."""
    num_subspaces, size, width = codebook.shape
    for m in range(num_subspaces):
        sums = np.zeros((size, width), np.float32)
        add_by(codes[:, m], vectors[:, m * width : (m + 1) * width], sums)
        counts = np.bincount(codes[:, m], minlength=size)[:, None]
        codebook[m] = np.where(counts > 0, sums / np.maximum(counts, 1), codebook[m])


def _allocate(variances: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the axes group by group: each goes to the group whose product is least so far."""
    size = len(variances) // num_groups
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    logs = np.zeros(num_groups)
    shift = np.log(variances.min())  # so that every axis makes its group's product larger
    for axis in np.argsort(-variances, kind="stable"):
        open_groups = [g for g in range(num_groups) if len(groups[g]) < size]
        group = min(open_groups, key=lambda g: logs[g])
        groups[group].append(int(axis))
        logs[group] += np.log(variances[axis]) - shift
    return np.concatenate([np.array(group) for group in groups])


def _group(covariance: np.ndarray, width: int) -> np.ndarray:
    """Return the dimensions block by block, those that correlate in one block, greedily."""
    deviations = np.sqrt(np.maximum(np.diag(covariance), 1e-30))
    correlation = np.square(covariance / np.outer(deviations, deviations))
    free = list(range(len(covariance)))
    order: list[int] = []
    while free:
        block = [max(free, key=lambda d: correlation[d, free].sum())]
        free.remove(block[0])
        while len(block) < width:
            nearest = max(free, key=lambda d: correlation[d, block].sum())
            block.append(nearest)
            free.remove(nearest)
        order += block
    return np.array(order)
