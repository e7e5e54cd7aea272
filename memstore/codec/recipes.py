"""Which codec `auto` and the names stand for: layout and stages, by measurement.

The defaults are those of docs/adr/0006-codec-defaults.md. They hold for encoders that normalize the
output of a layer (BERT's family); for others every candidate is trained on the sample, and the one
with the least error on the part that was held out is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from memstore.codec import arguments
from memstore.codec.product import ProductCodec
from memstore.codec.quality import reconstruction
from memstore.codec.training import choose_layout
from memstore.errors import ConfigError

NAMES = ("auto", "memory-vq")

_POST_NORM_FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet")
_HELD_OUT_EVERY = 10
_PIECE = 128  # rows that are held out together where there are no passages
_TABLE_SHARE = 4  # a token table may take one part in this many of the records that it serves


@dataclass(frozen=True, slots=True)
class Recipe:
    """What `ProductCodec.train` is asked for, apart from the sample."""

    num_subspaces: int
    codebook_size: int
    rotation: str | None = None
    predictor: str | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the recipe as keywords of `ProductCodec.train`."""
        return asdict(self)


def choose_recipes(
    name: str,
    *,
    dim: int,
    num_vectors: int,
    family: str = "",
    vocabulary_size: int = 0,
    num_tokens: int = 0,
) -> list[Recipe]:
    """Return the candidates that a name stands for; the best on held-out vectors is to be kept.

    Args:
        name: "auto", or "memory-vq" for the plain layout of that paper.
        dim: D.
        num_vectors: size of the training sample.
        family: of the encoder; "": unknown.
        vocabulary_size: V; 0: the memories are not one a token, or their ids are not known.
        num_tokens: that will be encoded, about. Where there are few, a table with a row for every
            token of the vocabulary would outweigh what it saves.

    Raises:
        ConfigError: if the name is neither, or no layout fits D.
    """
    if name == "memory-vq":
        if dim % 16:
            raise ConfigError(f"codec memory-vq: its subspaces are 16 wide; 16 must divide {dim}")
        return [Recipe(dim // 16, min(65_536, num_vectors))]
    if name != "auto":
        raise ConfigError(f"codec: got {name!r}, wanted one of {', '.join(NAMES)}")
    layout = choose_layout(dim, num_vectors - num_vectors // _HELD_OUT_EVERY)
    size = layout.num_subspaces, layout.codebook_size
    record_bytes = 2 * -(-layout.num_subspaces * (1 if layout.codebook_size <= 256 else 2) // 2)
    is_predicted = vocabulary_size * dim * 2 * _TABLE_SHARE <= num_tokens * record_bytes
    predictor = "context" if vocabulary_size and is_predicted else None
    if family in _POST_NORM_FAMILIES:
        return [Recipe(*size, "pca", predictor)]
    recipes = [Recipe(*size), Recipe(*size, "pca")]
    if predictor:
        recipes += [Recipe(*size, None, predictor), Recipe(*size, "pca", predictor)]
    return recipes


def train_best(
    recipes: Sequence[Recipe],
    vectors: np.ndarray,
    token_ids: np.ndarray | None = None,
    offsets: np.ndarray | None = None,
    vocabulary: np.ndarray | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ProductCodec, float]:
    """Train each candidate on nine passages of ten, and keep the best on the tenth.

    Args:
        recipes: at least one.
        vectors, token_ids, offsets, vocabulary, seed: as for `ProductCodec.train`.
        progress: called with the number of subspaces done and of all, over all candidates.

    Returns:
        The codec, and its centred relative MSE on the vectors that were held out.

    Raises:
        ConfigError, ShapeError: as `ProductCodec.train`.
    """
    if offsets is None:
        offsets = np.append(np.arange(0, len(vectors), _PIECE), len(vectors))
    offsets = arguments.as_offsets(offsets, len(vectors))
    passages = np.arange(len(offsets) - 1)
    is_held_out = passages % _HELD_OUT_EVERY == 0
    kept = passages[~is_held_out] if len(passages) > 1 else passages
    held_out = passages[is_held_out]
    total = sum(recipe.num_subspaces for recipe in recipes)
    found: list[tuple[ProductCodec, float]] = []
    before = 0
    for recipe in recipes:
        codec = ProductCodec.train(
            **_passages(kept, vectors, token_ids, offsets),
            vocabulary=vocabulary,
            seed=seed,
            progress=_shifted(progress, before, total),
            **recipe.arguments(),
        )
        before += recipe.num_subspaces
        error = reconstruction(codec=codec, **_passages(held_out, vectors, token_ids, offsets))
        found.append((codec, error.relative_mse))
    return min(found, key=lambda pair: pair[1])


def _passages(
    chosen: np.ndarray, vectors: np.ndarray, token_ids: np.ndarray | None, offsets: np.ndarray
) -> dict[str, Any]:
    """Return the chosen passages alone."""
    rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in chosen])
    return {
        "vectors": vectors[rows],
        "token_ids": None if token_ids is None else token_ids[rows],
        "offsets": np.concatenate([[0], np.cumsum(np.diff(offsets)[chosen])]),
    }


def _shifted(
    progress: Callable[[int, int], None] | None, before: int, total: int
) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)
