"""The codec on a GPU; without one, its kernels in Triton's interpreter (TRITON_INTERPRET=1).

The interpreter has no bfloat16 arithmetic of its own: it cuts where a GPU rounds, so sums are
compared in bfloat16 on a GPU alone.
"""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from memstore.codec import ProductCodec
from memstore.codec.kernels import reference
from memstore.errors import ConfigError, CorruptionError, MissingDependencyError, ShapeError
from tests.unit.codec.kernels.gpu.material import (
    DTYPES,
    SHAPES,
    array,
    bfloat16_codec,
    gaussian,
    packed,
    random_codes,
)

# NumPy, in which the interpreter computes, warns of values that are not finite.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def test_missing_triton_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Triton the error says what to install."""
    for name in [name for name in sys.modules if name.startswith("memstore.codec.kernels.gpu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("memstore.codec.kernels.gpu", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)

    with pytest.raises(MissingDependencyError, match=r"needs triton.*memstore\[gpu\]"):
        importlib.import_module("memstore.codec.kernels.gpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decoding_gives_the_bits_of_the_reference(
    gpu: ModuleType, device: str, tensor: Any, shape: tuple[int, int, int], stored: str, dtype: str
) -> None:
    """For every record layout and pair of dtypes."""
    codec = ProductCodec(gaussian(1, *shape).astype(stored))
    codes = random_codes(codec, 300)
    expected = reference.gather(codes, codec.codebook.astype(dtype))

    vectors = gpu.GpuCodec(codec, device).decode(tensor(packed(codec, codes)), dtype=dtype)

    np.testing.assert_array_equal(array(vectors).view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_value_is_written_and_none_beyond(
    gpu: ModuleType, device: str, tensor: Any, shape: tuple[int, int, int]
) -> None:
    """The rows after the last one keep what they held."""
    codec = bfloat16_codec(shape)
    codes = random_codes(codec, 37)
    buffer = torch.full((40, codec.dim), torch.nan, device=device)

    gpu.gather(
        tensor(packed(codec, codes)).view(torch.uint8 if shape[1] <= 256 else torch.uint16),
        tensor(codec.codebook), buffer[:37],
    )  # fmt: skip

    assert not torch.isnan(buffer[:37]).any()
    assert torch.isnan(buffer[37:]).all()


@pytest.mark.parametrize("shape", [(4, 16, 4), (3, 250, 8), (2, 300, 5)], ids=str)
def test_a_code_that_names_no_centroid_is_refused(
    gpu: ModuleType, device: str, tensor: Any, shape: tuple[int, int, int]
) -> None:
    """The first such row is named, and nothing is read beyond the codebook."""
    codec = bfloat16_codec(shape)
    codes = random_codes(codec, 90)
    codes[70, 0] = codes[33, shape[0] - 1] = shape[1]

    with pytest.raises(CorruptionError, match="record 33 names") as caught:
        gpu.GpuCodec(codec, device).decode(tensor(packed(codec, codes)))

    assert caught.value.details == {"row": "33"}


def test_a_pad_byte_that_is_not_zero_is_refused(gpu: ModuleType, device: str, tensor: Any) -> None:
    """Three 8-bit codes leave a byte over."""
    codec = bfloat16_codec((3, 256, 8))
    records = packed(codec, random_codes(codec, 20))
    records[11, 1] |= 0x100

    with pytest.raises(CorruptionError, match=r"record 11 .* pad byte"):
        gpu.GpuCodec(codec, device).decode(tensor(records))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prediction_is_added_before_the_cast(
    gpu: ModuleType, device: str, tensor: Any, dtype: str
) -> None:
    """In float32, the table first; the sum is rounded once."""
    from memstore.codec.kernels.gpu_stages import Prediction

    if dtype == "bfloat16" and device == "cpu":
        pytest.skip("the interpreter does not round to bfloat16")
    codec = bfloat16_codec((3, 300, 8))
    codes = random_codes(codec, 50)
    table = gaussian(2, 40, codec.dim).astype(ml_dtypes.bfloat16)
    token_ids = np.random.default_rng(3).integers(0, 40, 50).astype(np.int32)
    addend = gaussian(4, 50, codec.dim)
    sums = reference.gather(codes, codec.codebook).astype(np.float32)
    sums = sums + table[token_ids].astype(np.float32)
    out = torch.empty((50, codec.dim), dtype=getattr(torch, dtype), device=device)

    for added, expected in ((None, sums), (tensor(addend), sums + addend)):
        prediction = Prediction(tensor(table), tensor(token_ids), added)
        gpu.gather(tensor(packed(codec, codes)), tensor(codec.codebook), out, prediction)

        np.testing.assert_array_equal(array(out), expected.astype(dtype))


@pytest.mark.parametrize("token_id", [-1, 40])
def test_a_token_id_beyond_the_table_is_refused(
    gpu: ModuleType, device: str, tensor: Any, token_id: int
) -> None:
    """It is not read, and the row is named."""
    from memstore.codec.kernels.gpu_stages import Prediction

    codec = bfloat16_codec((4, 300, 4))
    token_ids = np.zeros(30, np.int32)
    token_ids[21] = token_id
    prediction = Prediction(tensor(gaussian(0, 40, codec.dim)), tensor(token_ids))
    records = tensor(packed(codec, random_codes(codec, 30)))
    out = torch.empty((30, codec.dim), device=device)

    assert int(gpu.gather(records, tensor(codec.codebook), out, prediction)) == 21


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_encoding_finds_the_nearest_centroids(
    gpu: ModuleType, device: str, tensor: Any, shape: tuple[int, int, int], stored: str, dtype: str
) -> None:
    """As the reference does, whatever the vectors' and the codebook's precision."""
    codec = ProductCodec(gaussian(1, *shape).astype(stored))
    vectors = gaussian(2, 150, codec.dim).astype(dtype)
    expected = reference.assign(vectors.astype(np.float32), codec.codebook)

    records = gpu.GpuCodec(codec, device).encode(tensor(vectors))

    np.testing.assert_array_equal(array(records), packed(codec, expected))


@pytest.mark.parametrize("codebook_size", [200, 3000])
def test_equal_scores_go_to_the_lowest_code(
    gpu: ModuleType, device: str, tensor: Any, codebook_size: int
) -> None:
    """Few integer centroids, each there many times: in one tile and in several."""
    few = np.random.default_rng(0).integers(-2, 3, (20, 16))
    chosen = np.random.default_rng(1).integers(0, 20, (2, codebook_size))
    codec = ProductCodec(few[chosen].astype(ml_dtypes.bfloat16))
    vectors = np.random.default_rng(2).integers(-3, 4, (100, 32)).astype(np.float32)
    expected = reference.assign(vectors, codec.codebook)

    records = gpu.GpuCodec(codec, device).encode(tensor(vectors))

    np.testing.assert_array_equal(array(records), packed(codec, expected))


@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
def test_encoding_loses_no_more_than_float32_rounding(
    gpu: ModuleType, device: str, tensor: Any, stored: str
) -> None:
    """Far from the origin, where scores are large and nearly equal."""
    codec = ProductCodec((100 + gaussian(1, 1, 2100, 16)).astype(stored))
    vectors = 100 + gaussian(2, 200, 16)
    centroids = codec.codebook[0].astype(np.float64)
    scores = vectors.astype(np.float64) @ centroids.T - 0.5 * np.square(centroids).sum(axis=1)
    rounding = 2 * 18 * 2.0**-24 * np.abs(centroids).max() * np.abs(vectors).sum(axis=1).max() * 2

    codes = array(gpu.GpuCodec(codec, device).encode(tensor(vectors)))[:, 0]

    assert (scores.max(axis=1) - scores[np.arange(200), codes]).max() <= rounding


def test_a_record_does_not_depend_on_the_batch(gpu: ModuleType, device: str, tensor: Any) -> None:
    """One vector alone, and the same among others."""
    codec = bfloat16_codec((2, 2100, 16))
    vectors = tensor(gaussian(2, 140, codec.dim))
    codec_there = gpu.GpuCodec(codec, device)

    alone = codec_there.encode(vectors[133:134])

    np.testing.assert_array_equal(array(alone)[0], array(codec_there.encode(vectors))[133])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(
    gpu: ModuleType, device: str, tensor: Any, value: float
) -> None:
    """The first such row is named."""
    codec = bfloat16_codec((4, 16, 4))
    vectors = gaussian(2, 150, codec.dim)
    vectors[140, 0] = vectors[97, 15] = value

    with pytest.raises(ShapeError, match="row 97 holds NaN or infinity"):
        gpu.GpuCodec(codec, device).encode(tensor(vectors))


def test_nothing_gives_nothing(gpu: ModuleType, device: str) -> None:
    """Empty in, empty out."""
    codec = gpu.GpuCodec(bfloat16_codec((3, 300, 5)), device)

    records = codec.encode(torch.empty((0, 15), device=device))

    assert records.shape == (0, 3)
    assert codec.decode(records).shape == (0, 15)


def test_arguments_of_another_kind_are_refused(gpu: ModuleType, device: str, tensor: Any) -> None:
    """Wrong dtypes, shapes and devices are typed errors."""
    codec = gpu.GpuCodec(bfloat16_codec((3, 300, 5)), device)
    records = tensor(np.zeros((4, 3), np.uint16))

    with pytest.raises(ShapeError, match=r"records: got shape \(4, 2\), wanted \(T, 3\)"):
        codec.decode(records[:, :2])
    with pytest.raises(ShapeError, match=r"records: got torch.int32, wanted .* uint16, int16"):
        codec.decode(torch.zeros((4, 3), dtype=torch.int32, device=device))
    with pytest.raises(ShapeError, match="vectors: got ndarray"):
        codec.encode(np.zeros((4, 15), np.float32))
    with pytest.raises(ShapeError, match="vectors: got a tensor on meta"):
        codec.encode(torch.zeros((4, 15), device="meta"))
    with pytest.raises(ConfigError, match="dtype: got 'int8'"):
        codec.decode(records, dtype="int8")
    with pytest.raises(ConfigError, match="device: got 'cuda:77'"):
        gpu.GpuCodec(codec.codec, "cuda:77")
    wide = ProductCodec(np.full((1, 2, 1), 1e30, np.float32))
    with pytest.raises(ConfigError, match="values beyond float16"):
        gpu.GpuCodec(wide, device).decode(tensor(np.zeros((1, 1), np.uint16)), dtype="float16")


@pytest.mark.parametrize("num_centroids", [50, 300])
def test_a_training_step_sums_the_points_of_each_centroid(
    gpu: ModuleType, device: str, tensor: Any, num_centroids: int
) -> None:
    """Sums, counts and distortion are those of float64 arithmetic; one centroid gets no point."""
    points = gaussian(1, 500, 8)
    centroids = gaussian(2, num_centroids, 8)
    centroids[7] = 100
    codes = reference.assign(points, centroids[None])[:, 0]
    members = np.eye(num_centroids)[codes]  # (500, K)
    squares = np.square(points - centroids[codes].astype(np.float64)).sum(axis=1)

    step = gpu.kmeans_step(tensor(points), tensor(centroids))

    np.testing.assert_array_equal(array(step.counts), members.sum(axis=0))
    np.testing.assert_allclose(array(step.sums), members.T @ points, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(array(step.distortion), members.T @ squares, rtol=1e-12)
    assert step.counts[7] == 0


def test_training_repeats_itself_and_lowers_the_distortion(
    gpu: ModuleType, device: str, tensor: Any
) -> None:
    """The same seed gives the same centroids; twelve passes are better than one."""
    points = tensor(gaussian(1, 600, 8))

    once = gpu.train_codebook_gpu(points, 40, iterations=1, seed=5)
    trained = gpu.train_codebook_gpu(points, 40, seed=5)

    assert torch.equal(trained, gpu.train_codebook_gpu(points, 40, seed=5))
    assert not torch.equal(trained, gpu.train_codebook_gpu(points, 40, seed=6))
    losses = [float(gpu.kmeans_step(points, each).distortion.sum()) for each in (once, trained)]
    assert losses[1] < 0.95 * losses[0]


def test_empty_clusters_go_where_the_error_is(gpu: ModuleType, device: str, tensor: Any) -> None:
    """Of 500 points 480 are equal: most centroids start there, and must leave."""
    points = np.ones((500, 4), np.float32)
    points[:20] = 10 * gaussian(1, 20, 4)

    centroids = gpu.train_codebook_gpu(tensor(points), 12, iterations=20)

    step = gpu.kmeans_step(tensor(points), centroids)
    assert int((step.counts > 0).sum()) == 12


def test_training_needs_a_point_for_each_centroid(
    gpu: ModuleType, device: str, tensor: Any
) -> None:
    """Too few points, or one that is not finite, are typed errors."""
    points = gaussian(1, 30, 4)
    with pytest.raises(ShapeError, match="got 30, wanted at least 31"):
        gpu.train_codebook_gpu(tensor(points), 31)
    points[20, 3] = np.nan
    with pytest.raises(ShapeError, match="row 20 holds NaN"):
        gpu.train_codebook_gpu(tensor(points), 4)


@pytest.mark.parametrize("shape", [(4, 16, 4), (3, 256, 8), (20, 300, 5)], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_late_interaction_equals_decoding_first(
    gpu: ModuleType, device: str, tensor: Any, shape: tuple[int, int, int], dtype: str
) -> None:
    """Passages of one block, several blocks and no rows."""
    codec = bfloat16_codec(shape)
    codes = random_codes(codec, 120)
    queries = gaussian(2, 5, codec.dim).astype(dtype)
    offsets = np.array([0, 1, 1, 80, 120])
    products = queries.astype(np.float64) @ reference.gather(codes, codec.codebook).astype(float).T
    spans = pairwise(offsets)
    expected = [products[:, i:j].max(axis=1, initial=-np.inf).sum() for i, j in spans]

    scores = gpu.GpuCodec(codec, device).max_similarity(
        tensor(queries), tensor(packed(codec, codes)), tensor(offsets)
    )

    np.testing.assert_allclose(array(scores), expected, rtol=1e-5, atol=1e-4)


def test_late_interaction_refuses_bad_codes_and_offsets(
    gpu: ModuleType, device: str, tensor: Any
) -> None:
    """As decoding does."""
    codec = bfloat16_codec((4, 16, 4))
    codes = random_codes(codec, 40)
    queries = tensor(gaussian(0, 2, 16))
    codec_there = gpu.GpuCodec(codec, device)
    records = tensor(packed(codec, codes))
    for offsets in ([0, 50], [0, 30, 20, 40], [1, 40]):
        with pytest.raises(ShapeError, match="offsets: wanted rising values from 0"):
            codec_there.max_similarity(queries, records, tensor(np.array(offsets)))
    codes[25, 2] = 16

    with pytest.raises(CorruptionError, match="record 25 "):
        codec_there.max_similarity(
            queries, tensor(packed(codec, codes)), tensor(np.array([0, 10, 40]))
        )


# Width of a rotation's blocks, features of a neighbour; 0: no rotation; None: no predictor.
