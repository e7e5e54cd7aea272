"""The families of quantizers that are compared, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from memstore.codec.comparison.quantizers import (
    Codes,
    NormedCodes,
    Quantizer,
    directions_of,
    moments,
    train_integers,
)
from memstore.codec.comparison.residual import train_residual
from memstore.codec.fit_rotation import fit_pca
from memstore.codec.product import ProductCodec
from memstore.codec.sample import Sample
from memstore.codec.training import POINTS_PER_CENTROID
from memstore.errors import ConfigError

_RATES = (8, 16, 32)
_LARGE_CODEBOOK = 65_536
_ROWS_TO_TRAIN = 1 << 18
_BLOCK = 64
_INT4_GROUP = 32
_SCALE_BYTES = 2

Fit = Callable[[Sample, int, int], Quantizer]
"""(training sample, rate, seed) to a quantizer."""


@dataclass(frozen=True, slots=True)
class Family:
    """One way to keep a memory.

    Attributes:
        name, about: what it is called, and is.
        fit: trains one.
        rates: compressions to ask for, 2 D bytes over those of the codes; empty: it has but one,
            its own.
        needs_token_ids: it predicts from them.
        min_rows: left out of smaller samples, unless it is asked for by name.
        effort: time of its training and measuring, that of "pq" being 1, about: for the estimate.
    """

    name: str
    about: str
    fit: Fit
    rates: tuple[int, ...] = _RATES
    needs_token_ids: bool = False
    min_rows: int = 0
    effort: float = 1.0


def _train(
    sample: Sample, rate: int, seed: int, *, code_bytes: int = 1, **stages: str | int
) -> Codes:
    """Train a product codec of codes of 8 or 16 bits."""
    vocabulary = sample.vocabulary
    if "predictor" in stages and vocabulary is None and sample.token_ids is not None:
        vocabulary = int(sample.token_ids.max()) + 1
    codec = ProductCodec.train(
        sample.vectors,
        num_subspaces=_num_subspaces(sample, rate, code_bytes),
        codebook_size=256 if code_bytes == 1 else _LARGE_CODEBOOK,
        token_ids=sample.token_ids,
        offsets=sample.offsets,
        vocabulary=vocabulary,
        seed=seed,
        **stages,  # type: ignore[arg-type]
    )
    return Codes(codec)


def _num_subspaces(sample: Sample, rate: int, code_bytes: int) -> int:
    """Return M, with which codes of so many bytes are a part in `rate` of 2-byte floats."""
    dim: int = sample.vectors.shape[1]
    num_subspaces = 2 * dim // (rate * code_bytes)
    if 2 * dim % (rate * code_bytes) or dim % num_subspaces:
        raise ConfigError(
            f"codes of {code_bytes} byte cannot be a part in {rate} of {dim} dimensions"
        )
    return num_subspaces


def _some(vectors: np.ndarray) -> np.ndarray:
    """Return rows spread over (N, D) vectors, as many as the stages of a product codec look at."""
    return vectors[:: -(-len(vectors) // _ROWS_TO_TRAIN)]


def _norm_pca(sample: Sample, rate: int, seed: int) -> Quantizer:
    directions = Sample(directions_of(_some(sample.vectors))[0])
    return NormedCodes(_train(directions, rate, seed, rotation="pca"))


def _residual(sample: Sample, rate: int, seed: int) -> Quantizer:
    num_subspaces = _num_subspaces(sample, rate, 2)
    rotation = fit_pca(moments(sample.vectors)[1], num_subspaces, sample.vectors.shape[1])
    return train_residual(_some(sample.vectors), rotation, num_subspaces, seed)


def _int8(sample: Sample, rate: int, seed: int) -> Quantizer:
    return train_integers(sample.vectors, 8, sample.vectors.shape[1])


def _int4(sample: Sample, rate: int, seed: int) -> Quantizer:
    return train_integers(sample.vectors, 4, _INT4_GROUP)


def _pca_int8(sample: Sample, rate: int, seed: int) -> Quantizer:
    num_kept = 2 * sample.vectors.shape[1] // rate - _SCALE_BYTES
    return train_integers(sample.vectors, 8, num_kept, num_kept)


_PREDICTING = (*_RATES, 64)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("pq", "product quantizer, 8 bits a code", _train),
        Family(
            "memory-vq",
            "product quantizer, 16 bits a code: the layout of MEMORY-VQ",
            partial(_train, code_bytes=2),
            min_rows=POINTS_PER_CENTROID * _LARGE_CODEBOOK,
            effort=60,
        ),
        Family("pca", "PCA rotation, then pq", partial(_train, rotation="pca"), effort=1.2),
        Family(
            "pca-64",
            "PCA within blocks of 64 dimensions, then pq",
            partial(_train, rotation="pca", rotation_block=_BLOCK),
            effort=1.2,
        ),
        Family("opq", "OPQ rotation, then pq", partial(_train, rotation="opq"), effort=4),
        Family("norm-pca", "length apart in one word, then pca", _norm_pca, effort=1.2),
        Family(
            "residual",
            "PCA rotation, then two codes of 8 bits a subspace, beam search",
            _residual,
            effort=3,
        ),
        Family(
            "token-pca",
            "prediction from the token id, then pca",
            partial(_train, predictor="token", rotation="pca"),
            rates=_PREDICTING,
            needs_token_ids=True,
            effort=2,
        ),
        Family(
            "context-pca",
            "prediction from the token ids of the passage, then pca",
            partial(_train, predictor="context", rotation="pca"),
            rates=_PREDICTING,
            needs_token_ids=True,
            effort=3,
        ),
        Family("int8", "integers of 8 bits, a scale a token", _int8, rates=(), effort=0.2),
        Family("int4", "integers of 4 bits, a scale every 32", _int4, rates=(), effort=0.3),
        Family(
            "pca-int8",
            "the loudest principal axes, integers of 8 bits, a scale a token",
            _pca_int8,
            effort=0.3,
        ),
    )
}
"""All families, in the order in which they are measured."""


def what_it_lacks(family: Family, sample: Sample, *, by_name: bool) -> str | None:
    """Return why a family is left out of a comparison on this sample; None: it is not.

    Args:
        family: one of `FAMILIES`.
        sample: all of it, held out or not.
        by_name: the family was asked for.
    """
    if family.needs_token_ids and sample.token_ids is None:
        return "the sample holds no token_ids, which it predicts from"
    if len(sample.vectors) < family.min_rows and not by_name:
        return (
            f"{len(sample.vectors):,} vectors are few for its {_LARGE_CODEBOOK:,} centroids, it "
            f"wants {family.min_rows:,}; name it to see it anyway"
        )
    return None
