"""What a memory is expected to be from token ids: subtracted before the quantizer, added back.

A token's memory is largely decided by which token it is, where it stands and what stands beside it;
all three are known from two bytes of token id. What is left to quantize has a fraction of the
variance, so the same codes lose less.

Does not: find the tables (`fit_predictor.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from memstore.codec.passages import places_in_passages
from memstore.codec.rotation import Rotation

NEIGHBOURS = (-2, -1, 1, 2)  # part of the format
_PREFIX = "predictor."


@dataclass(frozen=True, slots=True, eq=False)
class TokenPredictor:
    """p_t = tokens[id_t] + positions[t] + context of t, in the basis of the codebook.

    The context of t is `[e(t-2), e(t-1), e(t+1), e(t+2), mean of e over the passage] @ context`,
    where e(s) = features[id_s], and zero beyond the ends of the passage.

    Attributes:
        tokens: (V, D) bfloat16.
        positions: (L, D) float32, by place in the passage; the last row serves all later places.
        features: (V, r) float32; r = 0: no context.
        context: (5 r, D) float32.

    Cost: a row of D values and 2 * 5 r * D floating-point operations a token.
    """

    tokens: np.ndarray
    positions: np.ndarray
    features: np.ndarray
    context: np.ndarray

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return len(self.tokens)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(V, L, r)."""
        return len(self.tokens), len(self.positions), self.features.shape[1]

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the tables by the names that they have in a file; empty ones have none."""
        tables = {_PREFIX + name: getattr(self, name) for name in self.__slots__}
        return {name: table for name, table in tables.items() if table.size}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> TokenPredictor:
        """Take the tables that `tensors` gave."""
        tokens, positions = tensors[_PREFIX + "tokens"], tensors[_PREFIX + "positions"]
        no_features = np.zeros((len(tokens), 0), np.float32)
        no_context = np.zeros((0, tokens.shape[1]), np.float32)
        return cls(
            tokens,
            positions,
            tensors.get(_PREFIX + "features", no_features),
            tensors.get(_PREFIX + "context", no_context),
        )

    def rotated(self, rotation: Rotation) -> TokenPredictor:
        """Return the same predictions in the basis of `rotation`."""
        return TokenPredictor(
            rotation.apply(self.tokens.astype(np.float32)).astype(self.tokens.dtype),
            rotation.apply(self.positions),
            self.features,
            rotation.apply(self.context),
        )

    def predict(self, token_ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return (T, D) float32, the expected memories of whole passages.

        Args:
            token_ids: (T,) integers below V.
            offsets: (P + 1,) int64; passage i is `token_ids[offsets[i]:offsets[i + 1]]`.
        """
        expected: np.ndarray = self.tokens[token_ids].astype(np.float32)
        table, rows = self.surroundings(token_ids, offsets)
        expected += table if rows is None else table[rows]
        return expected

    def surroundings(
        self, token_ids: np.ndarray, offsets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what `predict` adds to `tokens`: a float32 table, and each token's row in it.

        Without a context that is the table of positions; with one it is made for these tokens,
        (T, D), and there are no rows.
        """
        places = np.minimum(places_in_passages(offsets), len(self.positions) - 1)
        if not self.features.shape[1]:
            return self.positions, places
        expected = context_features(self.features, token_ids, offsets) @ self.context
        expected += self.positions[places]
        return expected, None


def context_features(
    features: np.ndarray, token_ids: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Return (T, 5 r) float32: the features of the neighbours, and their mean over the passage."""
    num_tokens, width = len(token_ids), features.shape[1]
    lengths = np.diff(offsets)
    own = features[token_ids]
    stacked = np.zeros((num_tokens, len(NEIGHBOURS) + 1, width), np.float32)
    places = places_in_passages(offsets)
    room = np.repeat(lengths, lengths)
    for slot, step in enumerate(NEIGHBOURS):
        rows = np.flatnonzero((places + step >= 0) & (places + step < room))
        stacked[rows, slot] = own[rows + step]
    filled = lengths > 0
    sums = np.add.reduceat(own, offsets[:-1][filled], axis=0)
    stacked[:, -1] = np.repeat(sums / lengths[filled, None], lengths[filled], axis=0)
    return stacked.reshape(num_tokens, -1)
