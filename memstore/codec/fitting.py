"""How a codec is trained: predictor, then rotation, then codebook, each on what is left.

Does not: choose a layout (`training.choose_layout`) or sample a corpus.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memstore.codec import arguments
from memstore.codec.fit_predictor import TOKEN_SHRINKAGE, chunks, fit_predictor
from memstore.codec.fit_rotation import fit_opq, fit_pca
from memstore.codec.predictor import TokenPredictor
from memstore.codec.rotation import Rotation
from memstore.codec.sample import Sample
from memstore.codec.training import check_training, train_codebook
from memstore.errors import ConfigError, ShapeError

CONTEXT_WIDTH = 64
"""Features of a neighbour in a "context" predictor; half the gain in error per doubling beyond."""

_MIN_QUANTIZER_ROWS = 1 << 18
_ROWS_PER_CENTROID = 64  # more move held-out error by less than the noise between seeds
_MEMORY_BYTES = 1 << 30  # a larger working copy of the sample lies in a temporary file


@dataclass(frozen=True, slots=True)
class Stages:
    """Which stages stand before the quantizer; see `ProductCodec.train`."""

    rotation: str | None = None
    rotation_block: int | None = None
    predictor: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """The parts of a codec; `codebook` is (M, K, D/M) float32."""

    codebook: np.ndarray
    rotation: Rotation | None
    predictor: TokenPredictor | None


def fit(
    sample: Sample,
    stages: Stages,
    num_subspaces: int,
    codebook_size: int,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    cluster: Callable[..., np.ndarray] = train_codebook,
) -> Fitted:
    """Train a codec; see `ProductCodec.train`. A job that spreads k-means gives its own `cluster`.

    Raises:
        ConfigError, ShapeError: if the options or the sample are not such.
    """
    check_training(sample.vectors, num_subspaces, codebook_size, seed)
    _check_stages(stages)
    if stages == Stages():
        codebook = cluster(
            sample.vectors, num_subspaces, codebook_size, seed=seed, progress=progress
        )
        return Fitted(codebook, None, None)
    if stages.predictor:
        offsets = arguments.as_offsets(sample.offsets, len(sample.vectors))
    else:  # a row's neighbours do not matter: any pieces will do
        offsets = np.append(np.arange(0, len(sample.vectors), 128), len(sample.vectors))
    predictor = _fit_predictor(sample, offsets, stages.predictor) if stages.predictor else None
    with tempfile.TemporaryDirectory(prefix="memstore-codec-") as folder:
        rest = _subtract(sample, offsets, predictor, codebook_size, Path(folder))
        rotation = _fit_rotation(rest, stages, num_subspaces, seed) if stages.rotation else None
        if rotation is not None:
            for start in range(0, len(rest), 1 << 16):
                rest[start : start + (1 << 16)] = rotation.apply(rest[start : start + (1 << 16)])
            predictor = predictor.rotated(rotation) if predictor is not None else None
        codebook = cluster(rest, num_subspaces, codebook_size, seed=seed, progress=progress)
    return Fitted(codebook, rotation, predictor)


def _check_stages(stages: Stages) -> None:
    if stages.rotation not in (None, "pca", "opq"):
        raise ConfigError(f"rotation: got {stages.rotation!r}, wanted 'pca', 'opq' or None")
    if stages.rotation_block is not None and stages.rotation != "pca":
        raise ConfigError("rotation_block: only the rotation 'pca' has blocks")
    if stages.predictor not in (None, "token", "context"):
        raise ConfigError(f"predictor: got {stages.predictor!r}, wanted 'token', 'context' or None")


def _fit_predictor(sample: Sample, offsets: np.ndarray, kind: str) -> TokenPredictor:
    vocabulary = sample.vocabulary
    known = vocabulary if isinstance(vocabulary, np.ndarray) else None
    size = len(known) if known is not None else vocabulary
    if not isinstance(size, int) or size < 1 or (known is not None and known.ndim != 2):
        raise ConfigError(
            "vocabulary: a predictor needs the number of token ids, or an array (V, F) of what is "
            "known of every token"
        )
    token_ids = arguments.check_token_ids(sample.token_ids, len(sample.vectors), size)
    return fit_predictor(
        sample.vectors,
        token_ids,
        offsets,
        vocabulary_size=size,
        known=known,
        context_width=CONTEXT_WIDTH if kind == "context" else 0,
    )


def _subtract(
    sample: Sample,
    offsets: np.ndarray,
    predictor: TokenPredictor | None,
    codebook_size: int,
    folder: Path,
) -> np.ndarray:
    """Return (N', D) float32: what the predictor leaves, of passages spread evenly.

    A vector has part in its own prediction, which so looks better than it is on other text. The
    residual is scaled to what it would be had the vector been left out (exactly so for the mean of
    its token).
    """
    most = max(_MIN_QUANTIZER_ROWS, _ROWS_PER_CENTROID * codebook_size)
    step = -(-len(sample.vectors) // most)
    num_rows = int(np.diff(offsets)[::step].sum())
    shape = num_rows, sample.vectors.shape[1]
    rest = _working_array(shape, folder)
    if predictor is not None:
        counts = np.bincount(sample.token_ids, minlength=predictor.vocabulary_size)  # type: ignore[arg-type]
        left_out = (counts + TOKEN_SHRINKAGE) / (counts + TOKEN_SHRINKAGE - 1)
    end = 0
    for chunk in chunks(sample.vectors, sample.token_ids, offsets, step=step):
        part = rest[end : end + len(chunk.vectors)]
        part[...] = chunk.vectors
        if predictor is not None:
            part -= predictor.predict(chunk.token_ids, chunk.offsets)
            part *= left_out[chunk.token_ids, None].astype(np.float32)
        end += len(part)
    return rest


def _working_array(shape: tuple[int, int], folder: Path) -> np.ndarray:
    if 4 * shape[0] * shape[1] <= _MEMORY_BYTES:
        return np.empty(shape, np.float32)
    return np.lib.format.open_memmap(folder / "rest.npy", "w+", np.float32, shape)


def _fit_rotation(vectors: np.ndarray, stages: Stages, num_subspaces: int, seed: int) -> Rotation:
    dim = vectors.shape[1]
    moment, total = np.zeros((dim, dim)), np.zeros(dim)
    for start in range(0, len(vectors), 1 << 16):
        rows = vectors[start : start + (1 << 16)]
        moment += rows.T @ rows
        total += rows.sum(axis=0, dtype=np.float64)
    mean = total / len(vectors)
    covariance = moment / len(vectors) - np.outer(mean, mean)
    if not np.isfinite(covariance).all():
        raise ShapeError(
            "training vectors: hold NaN or infinity; only finite values are trained on"
        )
    rotation = fit_pca(covariance, num_subspaces, stages.rotation_block or dim)
    if stages.rotation == "opq":
        rotation = fit_opq(vectors, rotation, num_subspaces, seed)
    return rotation
