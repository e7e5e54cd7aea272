"""The codec on a GPU; without one, its kernels in Triton's interpreter (TRITON_INTERPRET=1).

The interpreter has no bfloat16 arithmetic of its own: it cuts where a GPU rounds, so sums are
compared in bfloat16 on a GPU alone.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from memstore.codec import ProductCodec
from memstore.codec.kernels import reference
from memstore.codec.predictor import TokenPredictor
from memstore.codec.records import RecordLayout
from memstore.codec.rotation import Rotation
from memstore.errors import ConfigError, CorruptionError, MissingDependencyError, ShapeError

# NumPy, in which the interpreter computes, warns of values that are not finite.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# M, K, width: two codes a word, the same with a pad byte, one a word with tiles that are not full,
# a width that is no power of two, as many centroids as two codes a word allow, and one more.
SHAPES = [(4, 16, 4), (3, 256, 8), (2, 2100, 16), (3, 300, 5), (2, 2, 32), (5, 257, 16)]
DTYPES = ["bfloat16", "float16", "float32"]


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu), "cpu"])
def device(request: pytest.FixtureRequest) -> str:
    """A GPU, or the CPU in the interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if request.param == "cpu" and not IS_INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1")
    if request.param == "cuda" and (IS_INTERPRETED or not torch.cuda.is_available()):
        pytest.skip("needs a CUDA device and no TRITON_INTERPRET")
    return str(request.param)


@pytest.fixture
def gpu(device: str) -> ModuleType:
    """The module under test, which cannot be imported without Triton."""
    from memstore.codec.kernels import gpu

    return gpu


@pytest.fixture
def tensor(device: str) -> Callable[[np.ndarray], torch.Tensor]:
    """Return a function that copies an array of any of the dtypes here to the device."""

    def copy(array: np.ndarray) -> torch.Tensor:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(device)
        return torch.from_numpy(array.copy()).to(device)

    return copy


def array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as an array."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).cpu().numpy().view(ml_dtypes.bfloat16)
    return tensor.cpu().numpy()


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def random_codes(codec: ProductCodec, num_rows: int, seed: int = 0) -> np.ndarray:
    """Return (num_rows, M) codes."""
    shape = num_rows, codec.num_subspaces
    return np.random.default_rng(seed).integers(0, codec.codebook_size, shape)


def packed(codec: ProductCodec, codes: np.ndarray) -> np.ndarray:
    """Return codes as uint16 records, by arithmetic."""
    if codec.codebook_size > 256:
        return codes.astype(np.uint16)
    pairs = np.zeros((len(codes), 2 * codec.record_words), np.uint16)
    pairs[:, : codec.num_subspaces] = codes
    return pairs[:, 0::2] | pairs[:, 1::2] << 8


def bfloat16_codec(shape: tuple[int, int, int], seed: int = 1) -> ProductCodec:
    """Return a codec of random centroids."""
    return ProductCodec(gaussian(seed, *shape).astype(ml_dtypes.bfloat16))


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
    from memstore.codec.kernels.gpu_gather import Prediction

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
    from memstore.codec.kernels.gpu_gather import Prediction

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
STAGES = [(r, f) for r in (0, 6, 24) for f in (None, 0, 5) if r or f is not None]
OFFSETS = np.array([0, 7, 8, 8, 60, 90])


def staged_codec(
    rotation: int, features: int | None, shape: tuple[int, int, int] = (3, 300, 8), size: int = 40
) -> ProductCodec:
    """Return a codec of random centroids and stages; `size`: of the vocabulary."""
    dim = shape[0] * shape[2]
    stages: dict[str, Any] = {}
    if rotation:
        blocks = np.linalg.qr(gaussian(5, dim // rotation, rotation, rotation))[0]
        order = np.random.default_rng(6).permutation(dim).astype(np.int32)
        stages["rotation"] = Rotation(blocks, order)
    if features is not None:
        stages["predictor"] = TokenPredictor(
            gaussian(7, size, dim).astype(ml_dtypes.bfloat16),
            gaussian(8, 9, dim),
            gaussian(9, size, features),
            gaussian(10, 5 * features, dim),
        )
    return ProductCodec(gaussian(1, *shape).astype(ml_dtypes.bfloat16), **stages)


def layout(codec: ProductCodec) -> RecordLayout:
    """Return where codes and token id are in the codec's records."""
    size = codec.predictor.vocabulary_size if codec.predictor else 0
    return RecordLayout.for_codebook(codec.num_subspaces, codec.codebook_size, size)


def staged_records(codec: ProductCodec, codes: np.ndarray, token_ids: np.ndarray) -> np.ndarray:
    """Return records of these codes and, if the codec has a predictor, these token ids."""
    record = layout(codec)
    records = record.empty(len(codes))
    record.codes(records)[:, : codec.num_subspaces] = codes
    record.put_token_ids(records, token_ids)
    return records


def random_records(codec: ProductCodec) -> np.ndarray:
    """Return 90 records with random codes and token ids."""
    size = codec.predictor.vocabulary_size if codec.predictor else 1
    token_ids = np.random.default_rng(2).integers(0, size, 90)
    return staged_records(codec, random_codes(codec, 90), token_ids)


def decoded(
    codec: ProductCodec, records: np.ndarray, offsets: np.ndarray, *, rotated: bool = False
) -> np.ndarray:
    """Decode as `ProductCodec` does, in NumPy alone."""
    record = layout(codec)
    codes = record.codes(records)[:, : codec.num_subspaces]
    vectors = reference.gather(codes, codec.codebook).astype(np.float32)
    if codec.predictor is not None:
        vectors = vectors + codec.predictor.predict(record.token_ids(records), offsets)
    return vectors if rotated or codec.rotation is None else codec.rotation.undo(vectors)


def encoded(
    codec: ProductCodec, vectors: np.ndarray, token_ids: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Encode as `ProductCodec` does, in NumPy alone."""
    vectors = vectors.astype(np.float32)
    if codec.rotation is not None:
        vectors = codec.rotation.apply(vectors)
    if codec.predictor is not None:
        vectors = vectors - codec.predictor.predict(token_ids, offsets)
    return staged_records(codec, reference.assign(vectors, codec.codebook), token_ids)


@pytest.fixture
def small_blocks(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 35 vectors of 24 dimensions through the stages at a time."""
    monkeypatch.setattr(gpu, "_BLOCK_VALUES", 35 * 24)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize(("rotation", "features"), STAGES)
def test_decoding_with_stages_equals_the_reference(
    gpu: ModuleType, device: str, tensor: Any, rotation: int, features: int | None, rotated: bool
) -> None:
    """Passages of one row, none and several blocks; or all rows as one passage."""
    codec = staged_codec(rotation, features)
    records = random_records(codec)
    codec_there = gpu.GpuCodec(codec, device)

    for offsets, places in ((OFFSETS, tensor(OFFSETS)), (np.array([0, 90]), None)):
        expected = decoded(codec, records, offsets, rotated=rotated)
        for dtype, tolerance in (("float32", 1e-5), ("float16", 2**-10), ("bfloat16", 2**-7)):
            vectors = codec_there.decode(tensor(records), places, dtype=dtype, rotated=rotated)
            found = array(vectors).astype(np.float32)
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=2e-5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("rotation", "features"), STAGES)
def test_encoding_with_stages_equals_the_reference(
    gpu: ModuleType, device: str, tensor: Any, rotation: int, features: int | None, dtype: str
) -> None:
    """Record for record; the token ids are in them."""
    codec = staged_codec(rotation, features)
    vectors = gaussian(3, 90, codec.dim).astype(dtype)
    token_ids = np.random.default_rng(2).integers(0, 40, 90)
    expected = encoded(codec, vectors, token_ids, OFFSETS)

    records = gpu.GpuCodec(codec, device).encode(
        tensor(vectors), tensor(token_ids), tensor(OFFSETS)
    )

    np.testing.assert_array_equal(array(records), expected)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("rotation", "features"), STAGES)
def test_late_interaction_with_stages_equals_decoding_first(
    gpu: ModuleType, device: str, tensor: Any, rotation: int, features: int | None, dtype: str
) -> None:
    """With the vectors of the reference, in blocks or not at all."""
    codec = staged_codec(rotation, features)
    records = random_records(codec)
    queries = gaussian(2, 5, codec.dim).astype(dtype)
    products = queries.astype(np.float64) @ decoded(codec, records, OFFSETS).astype(float).T
    spans = pairwise(OFFSETS)
    expected = [products[:, i:j].max(axis=1, initial=-np.inf).sum() for i, j in spans]

    scores = gpu.GpuCodec(codec, device).max_similarity(
        tensor(queries), tensor(records), tensor(OFFSETS)
    )

    np.testing.assert_allclose(array(scores), expected, rtol=1e-5, atol=1e-4)


def test_bytes_and_wide_token_ids_share_a_record(gpu: ModuleType, device: str, tensor: Any) -> None:
    """Two words of codes, the second with a pad byte, and two of the id."""
    codec = staged_codec(24, 0, (3, 256, 8), size=70_000)
    vectors = gaussian(3, 20, codec.dim)
    token_ids = np.random.default_rng(2).integers(60_000, 70_000, 20)
    codec_there = gpu.GpuCodec(codec, device)

    records = codec_there.encode(tensor(vectors), tensor(token_ids.astype(np.int32)))

    assert records.shape == (20, 4)
    one_passage = np.array([0, 20])
    expected = encoded(codec, vectors, token_ids, one_passage)
    np.testing.assert_array_equal(array(records), expected)
    found = array(codec_there.decode(records, dtype="float32"))
    np.testing.assert_allclose(found, decoded(codec, expected, one_passage), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("word", "size"), [(40, 40), (0xFFFF, 40), (0xFFFF, 70_000)])
def test_a_record_of_a_token_beyond_the_vocabulary_is_refused(
    gpu: ModuleType, device: str, tensor: Any, word: int, size: int
) -> None:
    """Its row is named, whatever block it is in, and the tables are not read past their end."""
    codec = staged_codec(24, 5, size=size)
    records = random_records(codec)
    records[80, -1] = records[55, -1] = word
    codec_there = gpu.GpuCodec(codec, device)
    queries, offsets = tensor(gaussian(0, 2, codec.dim)), tensor(OFFSETS)

    calls: list[Callable[[], Any]] = [
        lambda: codec_there.decode(tensor(records), offsets),
        lambda: codec_there.decode(tensor(records), offsets, rotated=True),
        lambda: codec_there.max_similarity(queries, tensor(records), offsets),
    ]
    for call in calls:
        with pytest.raises(CorruptionError, match=r"record 55 names .* token id") as caught:
            call()
        assert caught.value.details == {"row": "55"}


@pytest.mark.usefixtures("small_blocks")
def test_a_vector_that_is_not_finite_is_named_whatever_the_stages(
    gpu: ModuleType, device: str, tensor: Any
) -> None:
    """The rotation spreads a NaN over its row, and over no other."""
    codec = staged_codec(24, 5)
    vectors = gaussian(3, 90, codec.dim)
    vectors[77, 3] = vectors[56, 5] = np.inf

    with pytest.raises(ShapeError, match="row 56 holds NaN or infinity"):
        gpu.GpuCodec(codec, device).encode(
            tensor(vectors), tensor(np.zeros(90, int)), tensor(OFFSETS)
        )


def test_token_ids_and_offsets_that_cannot_be_are_refused(
    gpu: ModuleType, device: str, tensor: Any
) -> None:
    """A codec that predicts must be told which tokens the vectors are of, and where they stand."""
    codec = gpu.GpuCodec(staged_codec(0, 5), device)
    vectors = tensor(gaussian(3, 9, 24))
    good_ids = tensor(np.zeros(9, np.int64))
    far, negative = tensor(np.full(9, 40)), tensor(np.full(9, -1))
    for ids in (None, [1] * 9, far[:8], far[None], far.float(), far, negative, far.to("meta")):
        with pytest.raises(ShapeError, match="token_ids"):
            codec.encode(vectors, ids)
    records = codec.encode(vectors, good_ids)
    for bad in ([0, 8], [1, 9], [0, 5, 3, 9], [], [0.0, 9.0]):
        offsets = tensor(np.array(bad))
        with pytest.raises(ShapeError, match="offsets"):
            codec.encode(vectors, good_ids, offsets)
        with pytest.raises(ShapeError, match="offsets"):
            codec.decode(records, offsets)
        with pytest.raises(ShapeError, match="offsets"):
            codec.max_similarity(vectors, records, offsets)


@pytest.mark.parametrize("features", [0, 5])
def test_nothing_gives_nothing_with_stages(
    gpu: ModuleType, device: str, tensor: Any, features: int
) -> None:
    """No rows, with passages and without."""
    codec = gpu.GpuCodec(staged_codec(24, features), device)
    ids, queries = tensor(np.zeros(0, np.int64)), tensor(gaussian(0, 2, 24))

    for starts in ([0], [0, 0, 0]):
        offsets = tensor(np.array(starts))
        records = codec.encode(queries[:0], ids, offsets)
        scores = codec.max_similarity(queries, records, offsets)

        assert codec.decode(records, offsets).shape == (0, 24)
        assert array(scores).tolist() == [-np.inf] * (len(starts) - 1)
    assert codec.decode(records).shape == (0, 24)


@pytest.fixture
def tf32() -> Iterator[None]:
    """A process that multiplies float32 matrices in TF32."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    yield
    matmul.fp32_precision = before


@pytest.mark.usefixtures("tf32")
def test_stages_are_float32_whatever_the_process_prefers(
    gpu: ModuleType, device: str, tensor: Any
) -> None:
    """Neither TF32 nor autocast reaches them, and both are as they were afterwards."""
    codec = staged_codec(24, 5)
    records = random_records(codec)

    with torch.autocast(device, dtype=torch.bfloat16):
        vectors = gpu.GpuCodec(codec, device).decode(tensor(records), dtype="float32")
        product = torch.ones((2, 2), device=device) @ torch.ones((2, 2), device=device)

    expected = decoded(codec, records, np.array([0, 90]))
    np.testing.assert_allclose(array(vectors), expected, rtol=1e-5, atol=2e-5)
    assert product.dtype == torch.bfloat16
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
