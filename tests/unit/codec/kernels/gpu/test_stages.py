"""A codec with rotation and token predictor on a GPU, or in Triton's interpreter."""

from __future__ import annotations

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
from memstore.errors import CorruptionError, ShapeError
from tests.unit.codec.kernels.gpu.material import (
    array,
    gaussian,
    random_codes,
)

# NumPy, in which the interpreter computes, warns of values that are not finite.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


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
