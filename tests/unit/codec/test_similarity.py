"""Scores on codes: equal to decoding first, whatever the stages."""

from __future__ import annotations

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

from memstore.codec import ProductCodec, similarity
from memstore.codec.predictor import TokenPredictor
from memstore.codec.rotation import Rotation
from memstore.errors import CorruptionError, ShapeError

VOCABULARY = 40
LENGTHS = (3, 1, 9, 2, 30)
OFFSETS = np.cumsum([0, *LENGTHS])


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def rotation(dim: int, num_blocks: int) -> Rotation:
    """Return an orthogonal basis that also permutes."""
    width = dim // num_blocks
    blocks = np.stack([np.linalg.qr(gaussian(seed, width, width))[0] for seed in range(num_blocks)])
    order = np.random.default_rng(9).permutation(dim).astype(np.int32)
    return Rotation(blocks.astype(np.float32), order)


def predictor(dim: int, context_width: int) -> TokenPredictor:
    """Return tables for 4 places; longer passages share the last."""
    return TokenPredictor(
        gaussian(5, VOCABULARY, dim).astype(ml_dtypes.bfloat16),
        gaussian(6, 4, dim),
        gaussian(7, VOCABULARY, context_width),
        gaussian(8, 5 * context_width, dim),
    )


def make(
    shape: tuple[int, int, int], *, num_blocks: int = 0, context_width: int | None = None
) -> tuple[ProductCodec, np.ndarray]:
    """Return a codec, and records of passages of LENGTHS tokens."""
    dim = shape[0] * shape[2]
    codec = ProductCodec(
        gaussian(1, *shape).astype(ml_dtypes.bfloat16),
        rotation=rotation(dim, num_blocks) if num_blocks else None,
        predictor=None if context_width is None else predictor(dim, context_width),
    )
    token_ids = np.random.default_rng(2).integers(0, VOCABULARY, OFFSETS[-1])
    return codec, codec.encode(2 * gaussian(3, OFFSETS[-1], dim), token_ids, OFFSETS)


def decoded_first(codec: ProductCodec, queries: np.ndarray, records: np.ndarray) -> np.ndarray:
    """Return what the scores are to be, in float64."""
    products = codec.decode(records, OFFSETS).astype(np.float64) @ queries.T.astype(np.float64)
    bounds = pairwise(OFFSETS)
    return np.array([products[start:stop].max(axis=0).sum() for start, stop in bounds])


@pytest.mark.parametrize("by_tables", [True, False], ids=["tables", "products"])
@pytest.mark.parametrize("num_queries", [1, 16, 21])
@pytest.mark.parametrize("context_width", [None, 0, 3], ids=["plain", "token", "context"])
@pytest.mark.parametrize("num_blocks", [0, 1, 2], ids=["unrotated", "dense", "blocks"])
@pytest.mark.parametrize("shape", [(6, 16, 4), (7, 256, 2), (6, 300, 2)], ids=str)
def test_scores_equal_decoding_first(
    shape: tuple[int, int, int],
    num_blocks: int,
    context_width: int | None,
    num_queries: int,
    by_tables: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both ways of computing agree with decode and a product, for all stages and layouts."""
    codec, records = make(shape, num_blocks=num_blocks, context_width=context_width)
    queries = gaussian(4, num_queries, codec.dim)
    monkeypatch.setattr(similarity, "_is_worth_tables", lambda *_: by_tables)

    scores = similarity.max_similarity(codec, queries, records, OFFSETS)

    wanted = decoded_first(codec, queries, records)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


def test_tables_are_used_for_small_codebooks_and_many_tokens() -> None:
    """A table of 65,536 centroids would cost more than all products."""
    small = np.zeros((48, 256, 8), np.float32)
    large = np.broadcast_to(np.float32(0), (256, 65_536, 16))

    assert similarity._is_worth_tables(small, 10_000)
    assert not similarity._is_worth_tables(small, 100)
    assert not similarity._is_worth_tables(large, 1_000_000)


def test_scores_do_not_depend_on_the_other_passages() -> None:
    """A passage scores the same alone."""
    codec, records = make((6, 16, 4), num_blocks=1, context_width=3)
    queries = gaussian(4, 5, codec.dim)

    scores = similarity.max_similarity(codec, queries, records, OFFSETS)

    alone = records[OFFSETS[2] : OFFSETS[3]]
    score = similarity.max_similarity(codec, queries, alone, np.array([0, len(alone)]))
    assert score[0] == pytest.approx(scores[2], rel=1e-5)


def test_no_passage_has_no_score() -> None:
    """Nothing in, nothing out."""
    codec, records = make((6, 16, 4))

    scores = similarity.max_similarity(codec, gaussian(4, 5, 24), records[:0], np.array([0]))

    assert scores.shape == (0,)


def test_an_empty_passage_is_refused() -> None:
    """There is no largest of nothing."""
    codec, records = make((6, 16, 4))

    with pytest.raises(ShapeError, match="passage 1 has no token"):
        similarity.max_similarity(codec, gaussian(4, 5, 24), records, np.array([0, 4, 4, 45]))


@pytest.mark.parametrize(
    "queries",
    [gaussian(4, 0, 24), gaussian(4, 2, 25), np.full((2, 24), np.nan, np.float32)],
    ids=["none", "wide", "nan"],
)
def test_bad_queries_are_refused(queries: np.ndarray) -> None:
    """A question has vectors of the codec's width, all finite."""
    codec, records = make((6, 16, 4))

    with pytest.raises(ShapeError):
        similarity.max_similarity(codec, queries, records, OFFSETS)


@pytest.mark.parametrize("by_tables", [True, False], ids=["tables", "products"])
def test_a_code_beyond_the_codebook_is_refused_with_its_row(
    by_tables: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged codes are told, as when decoding."""
    codec, records = make((6, 300, 2), num_blocks=1, context_width=0)
    records[17, 5] = 300
    monkeypatch.setattr(similarity, "_is_worth_tables", lambda *_: by_tables)

    with pytest.raises(CorruptionError, match="record 17 names a centroid"):
        similarity.max_similarity(codec, gaussian(4, 5, 12), records, OFFSETS)


def test_a_token_beyond_the_vocabulary_is_refused_with_its_row() -> None:
    """Damaged token ids are told, as when decoding."""
    codec, records = make((6, 16, 4), context_width=3)
    records[23, -1] = VOCABULARY

    with pytest.raises(CorruptionError, match="record 23 names a token"):
        similarity.max_similarity(codec, gaussian(4, 5, 24), records, OFFSETS)


def test_a_pad_byte_that_is_set_is_refused() -> None:
    """Records of another codec do not pass for these."""
    codec, records = make((7, 16, 2))
    records[3, 3] |= 1 << 8

    with pytest.raises(CorruptionError, match="record 3"):
        similarity.max_similarity(codec, gaussian(4, 5, 14), records, OFFSETS)
