"""Rotation and token predictor around the quantizer: what is stored, what comes back."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from memstore.codec import ProductCodec
from memstore.codec.fit_rotation import fit_pca
from memstore.codec.predictor import TokenPredictor, context_features
from memstore.codec.rotation import Rotation
from memstore.errors import ConfigError, CorruptionError, ShapeError

D, V = 16, 50
OFFSETS = np.concatenate([[0], np.cumsum([7, 1, 30, 0, 2] * 60)])
N = int(OFFSETS[-1])


def make_sample(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return vectors that depend on their token, place and left neighbour; ids; what is known."""
    rng = np.random.default_rng(seed)
    table = np.random.default_rng(99).normal(size=(V, D)) * 3
    mixing = np.linalg.qr(np.random.default_rng(98).normal(size=(D, D)))[0]
    token_ids = rng.integers(0, V, N)
    noise = rng.normal(size=(N, D)) * np.geomspace(1, 0.05, D)
    vectors = table[token_ids] + noise @ mixing
    is_first = np.zeros(N, bool)
    is_first[OFFSETS[:-1][np.diff(OFFSETS) > 0]] = True
    vectors[1:] += np.where(is_first[1:, None], 0, 0.5 * table[token_ids[:-1]])
    known = table + np.random.default_rng(97).normal(size=(V, D)) * 0.1
    return vectors.astype(np.float32), token_ids, known.astype(np.float32)


def train(**options: Any) -> ProductCodec:
    """Train a small codec on the sample."""
    vectors, token_ids, known = make_sample()
    options = {"num_subspaces": 4, "codebook_size": 32, "vocabulary": known} | options
    return ProductCodec.train(vectors, token_ids=token_ids, offsets=OFFSETS, **options)


def error(codec: ProductCodec) -> float:
    """Return the centred relative error on other vectors."""
    vectors, token_ids, _ = make_sample(seed=1)
    decoded = codec.decode(codec.encode(vectors, token_ids, OFFSETS), OFFSETS)
    spread = np.square(vectors - vectors.mean(axis=0)).sum()
    return float(np.square(vectors - decoded).sum() / spread)


STAGES: list[dict[str, Any]] = [
    {"rotation": "pca"},
    {"rotation": "opq"},
    {"rotation": "pca", "rotation_block": 8},
    {"predictor": "token"},
    {"predictor": "context"},
    {"rotation": "pca", "predictor": "token"},
    {"rotation": "pca", "predictor": "context"},
    {"rotation": "pca", "predictor": "token", "vocabulary": V},
    {"rotation": "pca", "predictor": "context", "codebook_size": 300},
]
FULL = STAGES[6]


@pytest.mark.parametrize("options", [each for each in STAGES if "rotation_block" not in each])
def test_each_stage_loses_less_than_the_plain_quantizer(options: dict[str, Any]) -> None:
    """On vectors that correlate and depend on their tokens."""
    size = options.get("codebook_size", 32)
    assert error(train(**options)) < error(train(codebook_size=size))


def test_a_predictor_with_neighbours_loses_less_than_one_without() -> None:
    """The sample's vectors depend on the token to the left."""
    assert error(train(**FULL)) < 0.8 * error(train(**STAGES[5]))


@pytest.mark.parametrize("options", STAGES)
def test_a_codec_with_stages_is_the_same_after_it_was_saved(
    options: dict[str, Any], tmp_path: Any
) -> None:
    """Same id, same records, same bits."""
    codec = train(**options)
    codec.save(tmp_path / "codec")
    loaded = ProductCodec.load(tmp_path / "codec", codec_id=codec.id)
    vectors, token_ids, _ = make_sample(seed=2)
    records = codec.encode(vectors, token_ids, OFFSETS)
    assert loaded == codec
    np.testing.assert_array_equal(loaded.encode(vectors, token_ids, OFFSETS), records)
    np.testing.assert_array_equal(loaded.decode(records, OFFSETS), codec.decode(records, OFFSETS))


@pytest.mark.parametrize("options", STAGES)
def test_training_with_one_seed_gives_one_codec(options: dict[str, Any]) -> None:
    """Byte for byte."""
    assert train(**options, seed=3) == train(**options, seed=3)


@pytest.mark.parametrize("options", STAGES)
def test_decoding_sums_centroids_and_prediction_then_turns_back(options: dict[str, Any]) -> None:
    """Against the sum written out in NumPy."""
    codec = train(**options)
    vectors, token_ids, _ = make_sample(seed=2)
    records = codec.encode(vectors, token_ids, OFFSETS)
    codes = records.view(np.uint8)[:, :4] if codec.codebook_size <= 256 else records[:, :4]
    expected = codec.codebook.astype(np.float32)[np.arange(4), codes].reshape(N, D)
    if codec.predictor is not None:
        expected = expected + codec.predictor.predict(token_ids, OFFSETS)
    rotated = codec.decode(records, OFFSETS, rotated=True)
    np.testing.assert_allclose(rotated, expected, rtol=1e-5, atol=1e-5)
    if codec.rotation is not None:
        expected = expected @ codec.rotation.matrix()
    decoded = codec.decode(records, OFFSETS)
    np.testing.assert_allclose(decoded, expected, rtol=1e-4, atol=1e-4)
    for dtype, tolerance in (("bfloat16", 2**-8), ("float16", 2**-10)):
        cast = codec.decode(records, OFFSETS, dtype=dtype)
        assert cast.dtype == np.dtype(dtype if dtype == "float16" else ml_dtypes.bfloat16)
        np.testing.assert_allclose(cast.astype(np.float32), decoded, rtol=tolerance, atol=1e-3)


@pytest.mark.parametrize("options", STAGES)
def test_a_passage_decodes_alone_as_it_does_among_others(options: dict[str, Any]) -> None:
    """A client has one passage at a time."""
    codec = train(**options)
    vectors, token_ids, _ = make_sample(seed=2)
    records = codec.encode(vectors, token_ids, OFFSETS)
    decoded = codec.decode(records, OFFSETS)
    for start, stop in pairwise(OFFSETS[:11]):
        alone = codec.decode(records[start:stop])
        np.testing.assert_allclose(alone, decoded[start:stop], rtol=1e-5, atol=1e-5)


def test_a_record_ends_with_the_token_id() -> None:
    """One word up to 65,536 ids, two beyond, the low one first."""
    vectors, token_ids, _ = make_sample()
    codec = train(predictor="token")
    records = codec.encode(vectors, token_ids, OFFSETS)
    assert records.shape == (N, 3)
    np.testing.assert_array_equal(records[:, 2], token_ids)
    token_ids = token_ids + 70_000
    wide = ProductCodec.train(
        vectors,
        num_subspaces=4,
        codebook_size=32,
        token_ids=token_ids,
        offsets=OFFSETS,
        vocabulary=70_100,
        predictor="token",
    )
    records = wide.encode(vectors, token_ids, OFFSETS)
    assert records.shape == (N, 4)
    np.testing.assert_array_equal(records[:, 2:].astype(int) @ [1, 1 << 16], token_ids)
    assert np.isfinite(wide.decode(records, OFFSETS)).all()


def test_a_token_that_the_sample_has_not_is_predicted_from_what_is_known_of_it() -> None:
    """Where nothing is known, it is predicted as the mean."""
    vectors, token_ids, known = make_sample()
    kept = token_ids != 7
    some = {"num_subspaces": 4, "codebook_size": 32, "predictor": "token"}
    tables = [
        ProductCodec.train(vectors[kept], token_ids=token_ids[kept], vocabulary=vocabulary, **some)
        for vocabulary in (known, V)
    ]
    wanted = vectors[~kept].mean(axis=0)
    distances = [
        float(np.linalg.norm(codec.predictor.tokens[7].astype(np.float32) - wanted))
        for codec in tables
        if codec.predictor is not None
    ]
    assert distances[0] < 0.5 * distances[1]


def test_context_is_the_neighbours_and_the_mean_within_the_passage() -> None:
    """Nothing crosses the end of a passage."""
    features = np.arange(1.0, 6.0, dtype=np.float32)[:, None]
    found = context_features(features, np.array([0, 1, 2, 3, 4]), np.array([0, 3, 3, 5]))
    wanted = [
        [0, 0, 2, 3, 2],
        [0, 1, 3, 0, 2],
        [1, 2, 0, 0, 2],
        [0, 0, 5, 0, 4.5],
        [0, 4, 0, 0, 4.5],
    ]
    np.testing.assert_array_equal(found, wanted)


def test_pca_deals_variance_out_evenly() -> None:
    """The product of variances is much the same in every subspace; the basis is orthogonal."""
    scales = np.geomspace(100, 0.01, D)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    covariance = (basis * scales) @ basis.T
    rotation = fit_pca(covariance, 4, D)
    matrix = rotation.matrix().astype(np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(D), atol=1e-5)
    turned = matrix @ covariance @ matrix.T
    np.testing.assert_allclose(turned, np.diag(np.diag(turned)), atol=1e-3)
    logs = np.log(np.diag(turned)).reshape(4, 4).sum(axis=1)
    assert np.ptp(logs) < 0.5 * np.ptp(np.sort(np.log(scales)).reshape(4, 4).sum(axis=1))


@pytest.mark.parametrize("block", [4, 8, 16])
def test_undoing_a_rotation_gives_the_vectors_back(block: int) -> None:
    """And `matrix` says what `apply` does."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, D)).astype(np.float32)
    rotation = fit_pca(np.cov(rng.normal(size=(D, 200))), 4, block)
    rotated = rotation.apply(vectors)
    np.testing.assert_allclose(rotation.undo(rotated), vectors, atol=1e-5)
    np.testing.assert_allclose(vectors @ rotation.matrix().T, rotated, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"rotation": "random"}, ConfigError),
        ({"rotation": "pca", "rotation_block": 5}, ConfigError),
        ({"rotation": "pca", "rotation_block": 2}, ConfigError),
        ({"rotation": "opq", "rotation_block": 8}, ConfigError),
        ({"rotation_block": 8}, ConfigError),
        ({"predictor": "oracle"}, ConfigError),
        ({"predictor": "token", "vocabulary": None}, ConfigError),
        ({"predictor": "token", "vocabulary": V - 1}, ShapeError),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], kind: type[Exception]) -> None:
    """Before anything is trained."""
    with pytest.raises(kind):
        train(**options)


@pytest.mark.parametrize(
    "token_ids",
    [
        None,
        [1] * N,
        np.zeros(N, np.float32),
        np.zeros(N - 1, np.int32),
        np.full(N, -1),
        np.full(N, V),
    ],
)
def test_token_ids_that_cannot_be_are_refused(token_ids: Any) -> None:
    """A codec that predicts must be told which tokens the vectors are of."""
    vectors, _, _ = make_sample()
    with pytest.raises(ShapeError, match="token_ids"):
        train(predictor="token").encode(vectors, token_ids, OFFSETS)


@pytest.mark.parametrize(
    "offsets",
    [
        np.array([0, N - 1]),
        np.array([1, N]),
        np.array([0, 9, 5, N]),
        np.zeros(0, int),
        [0, N],
        np.array([0.0, N]),
    ],
)
def test_offsets_that_cannot_be_are_refused(offsets: Any) -> None:
    """They must cover all rows, in order."""
    vectors, token_ids, _ = make_sample()
    codec = train(predictor="token")
    with pytest.raises(ShapeError, match="offsets"):
        codec.encode(vectors, token_ids, offsets)
    with pytest.raises(ShapeError, match="offsets"):
        codec.decode(codec.encode(vectors, token_ids, OFFSETS), offsets)


@pytest.mark.parametrize("word", [V, 0xFFFF])
def test_a_record_of_a_token_beyond_the_vocabulary_is_refused(word: int) -> None:
    """Never read past the table."""
    vectors, token_ids, _ = make_sample()
    codec = train(**FULL)
    records = codec.encode(vectors, token_ids, OFFSETS)
    records[33, -1] = word
    with pytest.raises(CorruptionError, match="record 33"):
        codec.decode(records, OFFSETS)


@pytest.mark.parametrize("row", [0, 33, N - 1])
def test_a_vector_that_is_not_finite_is_named_whatever_the_stages(row: int) -> None:
    """The rotation spreads a NaN over a row; the row is still the one that had it."""
    vectors, token_ids, _ = make_sample()
    vectors[row, 3] = np.inf
    with pytest.raises(ShapeError, match=f"row {row} "):
        train(**FULL).encode(vectors, token_ids, OFFSETS)


def test_stages_of_another_width_are_refused() -> None:
    """A codec's parts belong together."""
    codebook = np.random.default_rng(0).normal(size=(4, 8, 4)).astype(np.float32)
    rotation = Rotation(np.eye(8, dtype=np.float32)[None], np.arange(8, dtype=np.int32))
    twice = Rotation(np.eye(D, dtype=np.float32)[None], np.zeros(D, np.int32))
    tables = [np.zeros((V, 8), ml_dtypes.bfloat16), np.zeros((5, 8), np.float32)]
    predictor = TokenPredictor(*tables, np.zeros((V, 0), np.float32), np.zeros((0, 8), np.float32))
    for stages in ({"rotation": rotation}, {"rotation": twice}, {"predictor": predictor}):
        with pytest.raises(ShapeError):
            ProductCodec(codebook, **stages)  # type: ignore[arg-type]
