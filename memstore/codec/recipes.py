"""Which codec `auto` and the names stand for: layout and stages, by measurement.

The defaults are those of docs/adr/0006-codec-defaults.md. They hold for encoders that normalize the
output of a layer (BERT's family); for others every candidate is trained on the sample, and the one
with the least error on the part that was held out is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memstore.codec.product import ProductCodec
from memstore.codec.quality import reconstruction
from memstore.codec.records import RecordLayout
from memstore.codec.sample import Sample
from memstore.codec.training import choose_layout
from memstore.errors import ConfigError

NAMES = ("auto", "memory-vq")

HELD_OUT = 0.1  # of a sample, to measure on
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
    is_post_norm: bool = False,
    vocabulary_size: int = 0,
    num_tokens: int = 0,
) -> list[Recipe]:
    """Return the candidates that a name stands for; the best on held-out vectors is to be kept.

    Args:
        name: "auto", or "memory-vq" for the plain layout of that paper.
        dim: D.
        num_vectors: size of the training sample.
        is_post_norm: the encoder normalizes the output of a layer; False: it does not, or nothing
            is known of it.
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
    layout = choose_layout(dim, int(num_vectors * (1 - HELD_OUT)))
    size = layout.num_subspaces, layout.codebook_size
    record_bytes = 2 * RecordLayout.for_codebook(*size).num_words
    is_predicted = vocabulary_size * dim * 2 * _TABLE_SHARE <= num_tokens * record_bytes
    predictor = "context" if vocabulary_size and is_predicted else None
    if is_post_norm:
        return [Recipe(*size, "pca", predictor)]
    recipes = [Recipe(*size), Recipe(*size, "pca")]
    if predictor:
        recipes += [Recipe(*size, None, predictor), Recipe(*size, "pca", predictor)]
    return recipes


def train_best(
    recipes: Sequence[Recipe],
    sample: Sample,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ProductCodec, float]:
    """Train each candidate on nine tenths of a sample, and keep the best on the tenth.

    Args:
        recipes: at least one.
        sample: see `Sample.split`; one too small to be split is measured on itself.
        seed: of split and training.
        progress: called with the number of subspaces done and of all, over all candidates.

    Returns:
        The codec, and its centred relative MSE on the vectors that were held out.

    Raises:
        ConfigError, ShapeError: as `ProductCodec.train`.
    """
    kept, held_out = _split(sample, seed)
    total = sum(recipe.num_subspaces for recipe in recipes)
    found: list[tuple[ProductCodec, float]] = []
    before = 0
    for recipe in recipes:
        codec = ProductCodec.train(
            kept.vectors,
            token_ids=kept.token_ids,
            offsets=kept.offsets,
            vocabulary=kept.vocabulary,
            seed=seed,
            progress=_shifted(progress, before, total),
            **recipe.arguments(),
        )
        before += recipe.num_subspaces
        error = reconstruction(held_out.vectors, codec, held_out.token_ids, held_out.offsets)
        found.append((codec, error.relative_mse))
    return min(found, key=lambda pair: pair[1])


def _split(sample: Sample, seed: int) -> tuple[Sample, Sample]:
    """Return what is learnt from and what is held out: all of it where one had no spread."""
    num_parts = len(sample.vectors) if sample.offsets is None else len(sample.offsets) - 1
    if num_parts > 1:
        parts = sample.split(HELD_OUT, seed)
        if all((part.vectors != part.vectors[0]).any() for part in parts):
            return parts
    return sample, sample


def _shifted(
    progress: Callable[[int, int], None] | None, before: int, total: int
) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, _: progress(before + done, total)
