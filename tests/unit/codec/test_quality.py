"""Measures of what a codec loses."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.codec import ProductCodec, reconstruction
from memstore.errors import ShapeError


def test_vectors_made_of_centroids_lose_nothing() -> None:
    """The error is zero and every direction is kept."""
    codebook = np.random.default_rng(0).standard_normal((2, 8, 2), np.float32)
    vectors = np.concatenate([codebook[0], codebook[1][::-1]], axis=1)

    error = reconstruction(vectors, ProductCodec(codebook))

    assert error.relative_mse == 0
    assert error.cosine == pytest.approx(1)


def test_the_error_is_relative_to_the_spread_about_the_mean() -> None:
    """Worked by hand: x = 9, 11, 13 about a mean of 11, decoded as 10, 10, 13."""
    codec = ProductCodec(np.array([[[10], [13]]], np.float32))

    error = reconstruction(np.array([[9], [11], [13]], np.float32), codec)

    assert error.relative_mse == pytest.approx((1 + 1 + 0) / (4 + 0 + 4))
    assert error.cosine == pytest.approx(1)


def test_the_cosine_is_the_mean_over_vectors() -> None:
    """Worked by hand: one vector kept, one turned by a right angle, one of length zero."""
    codec = ProductCodec(np.array([[[1, 0], [9, 9]]], np.float32))

    error = reconstruction(np.array([[2, 0], [0, 1], [0, 0]], np.float32), codec)

    assert error.cosine == pytest.approx(1 / 3)


def test_large_samples_are_measured_in_parts() -> None:
    """The parts add up to the whole."""
    codec = ProductCodec(np.random.default_rng(1).standard_normal((2, 8, 2), np.float32))
    vectors = np.random.default_rng(2).standard_normal((9000, 4), np.float32)
    decoded = codec.decode(codec.encode(vectors))

    error = reconstruction(vectors, codec)

    wanted = np.square(vectors - decoded).sum() / np.square(vectors - vectors.mean(axis=0)).sum()
    assert error.relative_mse == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_vectors_without_spread_are_refused(count: int) -> None:
    """Nothing to be relative to."""
    codec = ProductCodec(np.zeros((1, 2, 2), np.float32))

    with pytest.raises(ShapeError, match="at least two that differ"):
        reconstruction(np.ones((count, 2), np.float32), codec)


def _norm(x: np.ndarray) -> np.ndarray:
    normed: np.ndarray = x / np.sqrt(np.square(x).mean(axis=1, keepdims=True))
    return normed


def test_errors_after_a_norm_are_those_of_normed_vectors() -> None:
    """LayerNorm takes out mean and length, RMSNorm the length alone."""
    rng = np.random.default_rng(3)
    codec = ProductCodec(rng.standard_normal((4, 16, 2), np.float32))
    x = rng.standard_normal((300, 8), np.float32) + 1
    y = codec.decode(codec.encode(x))

    error = reconstruction(x, codec)

    for found, norm in [
        (error.rms_norm_mse, _norm),
        (error.layer_norm_mse, lambda v: _norm(v - v.mean(axis=1, keepdims=True))),
    ]:
        a, b = norm(x), norm(y)
        wanted = np.square(a - b).sum() / np.square(a - a.mean(axis=0)).sum()
        assert found == pytest.approx(wanted, rel=1e-4)


def test_a_codec_that_predicts_is_measured_on_whole_passages() -> None:
    """It gets token ids and offsets; its errors are those of encoding all at once."""
    rng = np.random.default_rng(4)
    token_ids = rng.integers(0, 9, 9000).astype(np.int32)
    offsets = np.append(np.arange(0, 9000, 70), 9000)
    vectors = rng.standard_normal((9, 8), np.float32)[token_ids]
    vectors += 0.3 * rng.standard_normal((9000, 8), np.float32)
    codec = ProductCodec.train(
        vectors,
        num_subspaces=2,
        codebook_size=16,
        token_ids=token_ids,
        offsets=offsets,
        vocabulary=9,
        predictor="context",
    )
    decoded = codec.decode(codec.encode(vectors, token_ids, offsets), offsets)

    error = reconstruction(vectors, codec, token_ids, offsets)

    wanted = np.square(vectors - decoded).sum() / np.square(vectors - vectors.mean(axis=0)).sum()
    assert error.relative_mse == pytest.approx(wanted, rel=1e-4)
