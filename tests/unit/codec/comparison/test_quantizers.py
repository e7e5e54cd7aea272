"""The quantizers that a comparison sets beside product codecs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from memstore.codec import ProductCodec
from memstore.codec.comparison.quantizers import (
    Codes,
    NormedCodes,
    Quantizer,
    ScaledIntegers,
    directions_of,
    moments,
    train_integers,
)
from memstore.codec.comparison.residual import ResidualCodes, train_residual
from memstore.codec.rotation import Rotation
from memstore.codec.sample import Sample
from memstore.errors import ConfigError

BFLOAT16 = ml_dtypes.bfloat16


def _vectors(rows: int = 600, dim: int = 10, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, dim)) * np.linspace(3, 0.1, dim) + 2).astype(np.float32)


def _identity(dim: int) -> Rotation:
    return Rotation(np.eye(dim, dtype=np.float32)[None], np.arange(dim, dtype=np.int32))


def _decoded(quantizer: Quantizer, vectors: np.ndarray) -> tuple[np.ndarray, float]:
    encoded = quantizer.encode(Sample(vectors))
    assert all(len(array) == len(vectors) for array in encoded)
    num_bytes = sum(array.nbytes for array in encoded)
    return quantizer.decode(encoded, None), num_bytes / len(vectors)


@pytest.mark.parametrize(
    ("bits", "group", "num_bytes"),
    [(8, 10, 10 + 2), (8, 4, 10 + 3 * 2), (4, 10, 5 + 2), (4, 3, 5 + 4 * 2)],
)
def test_integers_are_off_by_half_a_step_at_most(bits: int, group: int, num_bytes: int) -> None:
    """A step is the largest value of the group over the largest level, rounded to bfloat16."""
    vectors = _vectors()
    quantizer = train_integers(vectors, bits, group)

    decoded, bytes_per_token = _decoded(quantizer, vectors)

    centred = vectors - quantizer.mean
    for start in range(0, 10, group):
        part = slice(start, min(start + group, 10))
        largest = np.abs(centred[:, part]).max(axis=1)
        step = largest / (2 ** (bits - 1) - 1)
        # A scale that bfloat16 rounds down by 2^-9 cuts the largest value by as much.
        bound = step / 2 * (1 + 2**-8) + largest * 2**-8
        assert (np.abs(decoded - vectors)[:, part].max(axis=1) <= bound + 1e-5).all()
    assert bytes_per_token == num_bytes


def test_an_odd_number_of_nibbles_and_zero_vectors_survive() -> None:
    """The mean itself has no largest value to be scaled by."""
    quantizer = ScaledIntegers(4, 2, np.arange(5, dtype=np.float32))
    vectors = np.stack([np.arange(5), np.arange(5) + 7]).astype(np.float32)

    decoded, bytes_per_token = _decoded(quantizer, vectors)

    np.testing.assert_array_equal(decoded, vectors)
    assert bytes_per_token == 3 + 3 * 2


def test_kept_axes_are_those_with_the_most_variance() -> None:
    """Vectors that lie in a plane are kept by two axes; the tables are the mean and the axes."""
    rng = np.random.default_rng(1)
    plane = np.linalg.qr(rng.standard_normal((6, 2)))[0].T
    vectors = (rng.standard_normal((300, 2)) @ plane + 5).astype(np.float32)
    quantizer = train_integers(vectors, 8, 2, 2)

    decoded, bytes_per_token = _decoded(quantizer, vectors)

    assert np.abs(decoded - vectors).max() < 0.05
    assert bytes_per_token == 2 + 2
    assert quantizer.tensor_bytes == 4 * 6 + 4 * 2 * 6


@pytest.mark.parametrize("num_kept", [0, 11, -1])
def test_axes_that_do_not_exist_are_refused(num_kept: int) -> None:
    """A rate at which nothing is left for the values."""
    with pytest.raises(ConfigError, match="principal axes, wanted 1 to 10"):
        train_integers(_vectors(), 8, 8, num_kept)


def test_moments_are_those_of_the_whole() -> None:
    """Summed in parts."""
    vectors = _vectors(20_000, 4)

    mean, covariance = moments(vectors)

    np.testing.assert_allclose(mean, vectors.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(covariance, np.cov(vectors.T, bias=True), atol=1e-3)


def test_a_codec_is_counted_with_all_its_tables() -> None:
    """Codebook, rotation and predictor; the token id is part of a record."""
    vectors = _vectors(dim=8)
    ids = np.zeros(600, np.int32)
    codec = ProductCodec.train(
        vectors,
        num_subspaces=4,
        codebook_size=16,
        token_ids=ids,
        vocabulary=3,
        predictor="token",
        rotation="pca",
    )
    quantizer = Codes(codec)
    sample = Sample(vectors, ids)

    (records,) = quantizer.encode(sample)

    predictor, rotation = codec.predictor, codec.rotation
    assert predictor is not None
    assert rotation is not None
    assert records.nbytes == 600 * (4 + 2)
    assert quantizer.tensor_bytes == (
        codec.codebook.nbytes
        + predictor.tokens.nbytes
        + predictor.positions.nbytes
        + rotation.blocks.nbytes
        + rotation.order.nbytes
    )
    np.testing.assert_array_equal(
        quantizer.decode((records,), None), codec.decode(codec.encode(vectors, ids))
    )


def test_a_length_stands_beside_the_codes_of_a_direction() -> None:
    """The decoded direction has the length that was kept; zero stays zero."""
    vectors = _vectors(dim=8)
    vectors[5] = 0
    directions, norms = directions_of(vectors)
    codec = Codes(ProductCodec.train(directions, num_subspaces=4, codebook_size=16))
    quantizer = NormedCodes(codec)

    decoded, bytes_per_token = _decoded(quantizer, vectors)

    wanted = codec.decode(codec.encode(Sample(directions)), None) * norms.astype(BFLOAT16)
    np.testing.assert_allclose(decoded, wanted, rtol=1e-6)
    assert not decoded[5].any()
    assert bytes_per_token == 4 + 2


def test_the_best_pair_of_two_codes_is_found() -> None:
    """Against all pairs, where every first code is in the beam: the error is the least there is."""
    rng = np.random.default_rng(2)
    first = rng.standard_normal((2, 256, 3)).astype(np.float32)
    first[:, 5:] = 1e6  # only five can be near
    second = rng.standard_normal((2, 256, 3)).astype(np.float32)
    vectors = rng.standard_normal((40, 6)).astype(np.float32)

    decoded, bytes_per_token = _decoded(ResidualCodes(_identity(6), first, second), vectors)

    for m in range(2):
        part = vectors[:, 3 * m : 3 * m + 3]
        pairs = (first[m, :5, None] + second[m]).reshape(-1, 3)
        least = np.square(part[:, None] - pairs).sum(axis=2).min(axis=1)
        found = np.square(part - decoded[:, 3 * m : 3 * m + 3]).sum(axis=1)
        np.testing.assert_allclose(found, least, rtol=1e-3)
    assert bytes_per_token == 4


def test_a_second_code_pays_and_so_does_fitting_both() -> None:
    """Two codes lose much less than one; refined codebooks less than those made one by one."""
    vectors = _vectors(3000, 8)
    rotation = _identity(8)
    one = ProductCodec.train(vectors, num_subspaces=2, codebook_size=256)

    two = train_residual(vectors, rotation, 2, seed=0)

    loss_of_one = np.square(vectors - one.decode(one.encode(vectors))).sum()
    loss = np.square(vectors - _decoded(two, vectors)[0]).sum()
    again = np.square(vectors - _decoded(two._refined(vectors), vectors)[0]).sum()
    assert loss < loss_of_one / 5
    assert again < loss
    assert two.tensor_bytes == 2 * 2 * 256 * 8 + 4 * 64 + 4 * 8
