"""Fit a token predictor to a sample of memories: linear regression, solved by blocks.

The model is additive, x_t = T[id_t] + P[place_t] + z_t B + noise, and all that its least squares
need of the vectors are sums by id, by place and by feature: two passes over the sample, whatever
its size. T is shrunk towards a regression on what is known of every token of the vocabulary, so
that ids which are rare in the sample, or absent, have a prediction too; this is most of what
survives a change of domain (docs/results/codec.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from memstore.codec.passages import blocks, places_in_passages, rows_of
from memstore.codec.predictor import TokenPredictor, context_features

# In tokens: how many occurrences of an id or place weigh as much as what is known beforehand.
TOKEN_SHRINKAGE = 4.0
_PLACE_SHRINKAGE = 20.0
_RIDGE = 1e-3  # of the mean of the diagonal
_ROUNDS = 8
_MAX_PLACES = 512
_ROWS = 1 << 16  # tokens in a chunk, about: chunks end with passages


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some whole passages of a sample; without token ids, row numbers stand for them."""

    vectors: np.ndarray
    token_ids: np.ndarray
    offsets: np.ndarray


def chunks(
    vectors: np.ndarray, token_ids: np.ndarray | None, offsets: np.ndarray, *, step: int = 1
) -> Iterator[Chunk]:
    """Yield a sample's passages, each `step`-th of them, in chunks; vectors become float32."""
    chosen = np.arange(0, len(offsets) - 1, step)
    ends = np.concatenate([[0], np.cumsum(np.diff(offsets)[chosen])])
    for first, last in blocks(ends, _ROWS):
        rows, offsets_among = rows_of(offsets, chosen[first:last])
        yield Chunk(
            np.asarray(vectors[rows], dtype=np.float32),
            rows if token_ids is None else token_ids[rows],
            offsets_among,
        )


@dataclass(slots=True)
class _Sums:
    """What least squares need of the sample, and the solution so far.

    Attributes:
        by_token: (V, D) sums of vectors; `num_of_token` (V,); `together` (V, L) counts.
        by_place: (L, D); `num_at_place` (L,).
        known: (V, F): what is known of every token of the vocabulary; its first column is 1.
        tokens, positions: (V, D), (L, D) float32.
    """

    by_token: np.ndarray
    by_place: np.ndarray
    together: np.ndarray
    known: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray

    @property
    def num_of_token(self) -> np.ndarray:
        counts: np.ndarray = self.together.sum(axis=1, keepdims=True)
        return counts

    @property
    def num_at_place(self) -> np.ndarray:
        counts: np.ndarray = self.together.sum(axis=0)[:, None]
        return counts

    def solve(self, token_rest: np.ndarray | float, place_rest: np.ndarray | float) -> None:
        """Improve places, then tokens; `rest` is what the context explains of their sums."""
        others = self.together.T @ self.tokens
        self.positions = (self.by_place - others - place_rest) / (
            self.num_at_place + _PLACE_SHRINKAGE
        )
        own = self.by_token - self.together @ self.positions - token_rest
        count = self.num_of_token
        weight = count / (count + TOKEN_SHRINKAGE)
        weighted = self.known * weight
        means = own / np.maximum(count, 1)
        prior = self.known @ _ridge(weighted.T @ self.known, weighted.T @ means)
        self.tokens = (own + TOKEN_SHRINKAGE * prior) / (count + TOKEN_SHRINKAGE)


def fit_predictor(
    vectors: np.ndarray,
    token_ids: np.ndarray,
    offsets: np.ndarray,
    *,
    vocabulary_size: int,
    known: np.ndarray | None,
    context_width: int,
) -> TokenPredictor:
    """Fit by least squares with shrinkage.

    Args:
        vectors: (N, D) floating point, finite; may be a memory map.
        token_ids: (N,) integers below `vocabulary_size`.
        offsets: (P + 1,) int64: the passages.
        vocabulary_size: V.
        known: (V, F) float32: something that is known of every token, such as its memory when it
            stands alone; None: nothing.
        context_width: r, features of a neighbour; 0: no context.

    Returns:
        The predictor, in the basis of the vectors.
    """
    sums = _sum_vectors(vectors, token_ids, offsets, vocabulary_size, known)
    for _ in range(_ROUNDS):
        sums.solve(0.0, 0.0)
    features = _main_features(sums, context_width)
    context = np.zeros((0, vectors.shape[1]), np.float32)
    if context_width:
        context = _fit_context(vectors, token_ids, offsets, sums, features)
    return TokenPredictor(
        tokens=sums.tokens.astype(ml_dtypes.bfloat16),
        positions=sums.positions.astype(np.float32),
        features=features,
        context=context,
    )


def _sum_vectors(
    vectors: np.ndarray,
    token_ids: np.ndarray,
    offsets: np.ndarray,
    vocabulary_size: int,
    known: np.ndarray | None,
) -> _Sums:
    dim = vectors.shape[1]
    num_places = min(int(np.diff(offsets).max()), _MAX_PLACES)
    together = np.zeros((vocabulary_size, num_places), np.float32)
    by_token = np.zeros((vocabulary_size, dim), np.float32)
    by_place = np.zeros((num_places, dim), np.float32)
    for chunk in chunks(vectors, token_ids, offsets):
        places = np.minimum(places_in_passages(chunk.offsets), num_places - 1)
        np.add.at(together, (chunk.token_ids, places), 1)
        add_by(chunk.token_ids, chunk.vectors, by_token)
        add_by(places, chunk.vectors, by_place)
    ones = np.ones((vocabulary_size, 1), np.float32)
    return _Sums(
        by_token=by_token,
        by_place=by_place,
        together=together,
        known=ones if known is None else np.hstack([ones, _standardized(known)]),
        tokens=np.zeros_like(by_token),
        positions=np.zeros_like(by_place),
    )


def _main_features(sums: _Sums, width: int) -> np.ndarray:
    """Return (V, r) float32: the token table's main directions among the tokens of the sample."""
    weight = sums.num_of_token / max(float(sums.num_of_token.sum()), 1.0)
    centred = sums.tokens - (weight * sums.tokens).sum(axis=0)
    _, directions = np.linalg.eigh((centred * weight).T @ centred)
    return np.ascontiguousarray(centred @ directions[:, ::-1][:, :width], dtype=np.float32)


def _fit_context(
    vectors: np.ndarray,
    token_ids: np.ndarray,
    offsets: np.ndarray,
    sums: _Sums,
    features: np.ndarray,
) -> np.ndarray:
    """Return the context's coefficients, and bring `sums` up to date with them."""
    size = 5 * features.shape[1]
    gram = np.zeros((size, size), np.float32)
    products = np.zeros((size, vectors.shape[1]), np.float32)
    by_token = np.zeros((len(features), size), np.float32)
    by_place = np.zeros((len(sums.positions), size), np.float32)
    for chunk in chunks(vectors, token_ids, offsets):
        inputs = context_features(features, chunk.token_ids, chunk.offsets)
        gram += inputs.T @ inputs
        products += inputs.T @ chunk.vectors
        add_by(chunk.token_ids, inputs, by_token)
        places = np.minimum(places_in_passages(chunk.offsets), len(by_place) - 1)
        add_by(places, inputs, by_place)
    context = np.zeros_like(products)
    for _ in range(_ROUNDS):
        explained = by_token.T @ sums.tokens + by_place.T @ sums.positions
        context = _ridge(gram, products - explained)
        sums.solve(by_token @ context, by_place @ context)
    return np.ascontiguousarray(context, dtype=np.float32)


def add_by(keys: np.ndarray, rows: np.ndarray, sums: np.ndarray) -> None:
    """Add each row to `sums[key]`: sorted first, as `np.add.at` is many times slower for rows."""
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    sums[found] += np.add.reduceat(rows[order], starts, axis=0)


def _ridge(gram: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Solve (gram + ridge) B = products, in float64."""
    gram = gram.astype(np.float64)
    gram[np.diag_indices_from(gram)] += _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-30)
    return np.linalg.solve(gram, products.astype(np.float64)).astype(np.float32)


def _standardized(known: np.ndarray) -> np.ndarray:
    """Centre the columns and scale all alike, so that one ridge suits any source."""
    centred = known.astype(np.float32) - known.mean(axis=0, dtype=np.float32)
    scaled: np.ndarray = centred / max(float(centred.std()), 1e-30)
    return scaled
