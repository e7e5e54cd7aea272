"""Codecs and codes to faiss and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import ml_dtypes
import numpy as np
import pytest

from memstore.codec import ProductCodec
from memstore.codec.interchange import codes_from_faiss, codes_to_faiss, from_faiss, to_faiss
from memstore.codec.predictor import TokenPredictor
from memstore.codec.rotation import Rotation
from memstore.errors import ConfigError, CorruptionError, ShapeError

DIM = 12
NUM_BITS = 4, 8, 10, 12, 16


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def random_quantizer(num_subspaces: int, num_bits: int) -> Any:
    """Return a `faiss.ProductQuantizer` of D=12 whose centroids are normals."""
    quantizer = faiss.ProductQuantizer(DIM, num_subspaces, num_bits)
    values = gaussian(1, DIM << num_bits)
    faiss.copy_array_to_vector(values, quantizer.centroids)
    return quantizer


def random_index(num_bits: int = 8) -> Any:
    """Return a trained `faiss.IndexPQ` of three subspaces whose centroids are normals."""
    index = faiss.IndexPQ(DIM, 3, num_bits)
    faiss.copy_array_to_vector(gaussian(2, DIM << num_bits), index.pq.centroids)
    index.is_trained = True
    return index


def random_rotation(seed: int = 3) -> np.ndarray:
    """Return (12, 12) float32, orthogonal."""
    rotation: np.ndarray = np.linalg.qr(gaussian(seed, DIM, DIM).astype(np.float64))[0]
    return rotation.astype(np.float32)


def transform(matrix: np.ndarray, *, bias: bool = False) -> Any:
    """Return a `faiss.LinearTransform` of a (D', D) matrix."""
    made = faiss.LinearTransform(matrix.shape[1], matrix.shape[0], bias)
    faiss.copy_array_to_vector(matrix.ravel(), made.A)
    made.is_trained = True
    made.set_is_orthonormal()
    return made


@pytest.mark.parametrize("num_subspaces", [3, 4])
@pytest.mark.parametrize("num_bits", NUM_BITS)
def test_a_faiss_quantizer_is_taken_over_without_loss(num_subspaces: int, num_bits: int) -> None:
    """Its codes decode here to the bits that faiss gives, and ours are as near as faiss's."""
    quantizer = random_quantizer(num_subspaces, num_bits)
    vectors = gaussian(4, 100, DIM)
    packed = quantizer.compute_codes(vectors)

    codec = from_faiss(quantizer)

    records = codes_from_faiss(codec, packed)
    assert codec.decode(records).tobytes() == quantizer.decode(packed).tobytes()
    ours = np.square(vectors - codec.decode(codec.encode(vectors))).sum(axis=1)
    theirs = np.square(vectors - quantizer.decode(packed)).sum(axis=1)
    assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_trained_opq_index_is_taken_over(tmp_path: Path) -> None:
    """Read from a file as another program left it: the rotation comes along and is undone."""
    vectors = gaussian(5, 700, DIM) * np.linspace(0.1, 3, DIM, dtype=np.float32)
    trained = faiss.IndexPreTransform(faiss.OPQMatrix(DIM, 3), faiss.IndexPQ(DIM, 3, 4))
    trained.train(vectors)
    faiss.write_index(trained, str(tmp_path / "opq.faiss"))
    index = faiss.read_index(str(tmp_path / "opq.faiss"))
    packed = index.sa_encode(vectors)

    codec = from_faiss(index)

    decoded = codec.decode(codes_from_faiss(codec, packed))
    np.testing.assert_allclose(decoded, index.sa_decode(packed), rtol=0, atol=1e-5)
    ours = np.square(vectors - codec.decode(codec.encode(vectors))).sum()
    theirs = np.square(vectors - decoded).sum()
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("make", [lambda index: index, lambda index: index.pq])
def test_a_rotation_may_come_beside_the_quantizer(make: Any) -> None:
    """An index and its quantizer are the same codec; the rotation is that of the vectors."""
    index = random_index()
    matrix = random_rotation()
    vectors = gaussian(6, 50, DIM)
    packed = index.sa_encode(vectors @ matrix.T)

    codec = from_faiss(make(index), transform(matrix))

    rotated = codec.decode(codes_from_faiss(codec, packed), rotated=True)
    assert rotated.tobytes() == index.sa_decode(packed).tobytes()
    assert codec.rotation is not None
    assert codec.rotation.matrix().tobytes() == matrix.tobytes()


@pytest.mark.parametrize("num_bits", NUM_BITS)
@pytest.mark.parametrize("is_rotated", [False, True])
def test_a_codec_survives_the_way_to_faiss_and_back(num_bits: int, *, is_rotated: bool) -> None:
    """The same id: every bit of it."""
    rotation = Rotation(random_rotation()[None], np.arange(DIM, dtype=np.int32))
    codec = ProductCodec(
        gaussian(7, 3, 1 << num_bits, 4), rotation=rotation if is_rotated else None
    )

    assert from_faiss(to_faiss(codec)) == codec


def test_an_exported_codec_decodes_in_faiss_bit_for_bit() -> None:
    """bfloat16 becomes float32, which loses nothing."""
    codec = ProductCodec(gaussian(8, 3, 256, 4).astype(ml_dtypes.bfloat16))
    records = codec.encode(gaussian(9, 40, DIM))

    index = to_faiss(codec)

    decoded = index.sa_decode(codes_to_faiss(codec, records))
    assert decoded.tobytes() == codec.decode(records).tobytes()
    assert index.ntotal == 0


def test_an_exported_block_diagonal_rotation_is_undone_by_faiss() -> None:
    """Blocks and a permutation are unknown to faiss: it is given the matrix that they are."""
    blocks = np.stack([random_rotation(seed)[:4, :4] for seed in range(3)])
    blocks = np.linalg.qr(blocks)[0]
    order = np.random.default_rng(10).permutation(DIM).astype(np.int32)
    codec = ProductCodec(gaussian(11, 3, 16, 4), rotation=Rotation(blocks, order))
    vectors = gaussian(12, 30, DIM)
    records = codec.encode(vectors)

    index = to_faiss(codec)

    assert isinstance(index, faiss.IndexPreTransform)
    codes = codes_to_faiss(codec, records)
    np.testing.assert_allclose(index.sa_decode(codes), codec.decode(records), rtol=0, atol=1e-5)
    assert np.array_equal(index.sa_encode(vectors), codes)


@pytest.mark.parametrize(("num_subspaces", "num_bits"), [(4, 8), (3, 16), (4, 16)])
def test_records_of_whole_words_are_the_bytes_of_faiss_codes(
    num_subspaces: int, num_bits: int
) -> None:
    """8 bits: two to a word, the first in the low byte; 16 bits: little-endian words."""
    quantizer = random_quantizer(num_subspaces, num_bits)
    packed = quantizer.compute_codes(gaussian(13, 20, DIM))
    codec = from_faiss(quantizer)

    records = codes_from_faiss(codec, packed)

    assert records.tobytes() == packed.tobytes()
    assert codes_to_faiss(codec, records).tobytes() == packed.tobytes()


@pytest.mark.parametrize("num_bits", NUM_BITS)
def test_codes_survive_the_way_to_records_and_back(num_bits: int) -> None:
    """Widened to 8 or 16 bits on the way, with a pad byte where their number is odd."""
    quantizer = random_quantizer(3, num_bits)
    packed = quantizer.compute_codes(gaussian(14, 20, DIM))
    codec = from_faiss(quantizer)

    records = codes_from_faiss(codec, packed)

    assert records.shape == (20, codec.record_words)
    assert np.array_equal(codes_to_faiss(codec, records), packed)
    assert np.array_equal(codes_to_faiss(codec, records.view(np.int16)), packed)


@pytest.mark.parametrize(
    "quantizer",
    [
        faiss.ProductQuantizer(DIM, 3, 4),
        faiss.IndexPQ(DIM, 3, 4),
    ],
    ids=["ProductQuantizer", "IndexPQ"],
)
def test_an_untrained_quantizer_is_refused(quantizer: Any) -> None:
    """Zeros are not a codebook."""
    with pytest.raises(ConfigError, match="not trained"):
        from_faiss(quantizer)


@pytest.mark.parametrize(
    "other",
    [None, faiss.IndexFlatL2(DIM), faiss.ResidualQuantizer(DIM, 2, 4), np.zeros((3, 16, 4))],
    ids=["None", "IndexFlatL2", "ResidualQuantizer", "array"],
)
def test_what_is_no_product_quantizer_is_refused_by_name(other: Any) -> None:
    """Another family of codes would decode to nonsense."""
    with pytest.raises(ConfigError, match=f"got a {type(other).__name__}, wanted a faiss"):
        from_faiss(other)


def test_more_than_16_bits_a_code_are_refused() -> None:
    """A code has one word of a record."""
    with pytest.raises(ConfigError, match="17 bits a code, wanted at most 16"):
        from_faiss(faiss.ProductQuantizer(DIM, 3, 17))


def test_centroids_that_are_not_finite_are_refused() -> None:
    """As any codebook's are."""
    quantizer = random_quantizer(3, 4)
    faiss.copy_array_to_vector(np.full(DIM << 4, np.nan, np.float32), quantizer.centroids)

    with pytest.raises(ShapeError, match="NaN or infinity"):
        from_faiss(quantizer)


@pytest.mark.parametrize(
    ("rotation", "message"),
    [
        (transform(random_rotation(), bias=True), "has a bias"),
        (transform(random_rotation()[:6]), "got 6 x 12"),
        (transform(random_rotation() * np.float32(1.01)), "not orthogonal"),
        (transform(np.full((DIM, DIM), np.nan, np.float32)), "not orthogonal"),
        (faiss.OPQMatrix(DIM, 3), "wanted a trained transform"),
        (faiss.CenteringTransform(DIM), "got a CenteringTransform"),
    ],
    ids=["bias", "narrower", "scaled", "nan", "untrained", "centering"],
)
def test_a_transform_that_cannot_be_undone_is_refused(rotation: Any, message: str) -> None:
    """A rotation alone has its transpose for inverse."""
    with pytest.raises(ConfigError, match=message):
        from_faiss(random_index(), rotation)


def test_a_rotation_of_another_width_is_refused() -> None:
    """It is not that of the quantizer."""
    with pytest.raises(ShapeError, match="got one of 8 dimensions, wanted 12"):
        from_faiss(random_index(), transform(np.eye(8, dtype=np.float32)))


def test_a_pre_transform_has_one_rotation() -> None:
    """A second one, in its chain or beside it, is refused."""
    eye = np.eye(DIM, dtype=np.float32)
    index = faiss.IndexPreTransform(transform(eye), random_index())
    with pytest.raises(ConfigError, match="holds its own"):
        from_faiss(index, transform(eye))

    index.prepend_transform(transform(random_rotation()))
    with pytest.raises(ConfigError, match="has 2 transforms, wanted one"):
        from_faiss(index)


def test_a_codec_with_a_predictor_is_not_exported() -> None:
    """What faiss decoded would be the residuals alone."""
    tables = gaussian(15, 9, DIM).astype(ml_dtypes.bfloat16), gaussian(16, 2, DIM)
    empty = np.zeros((9, 0), np.float32), np.zeros((0, DIM), np.float32)
    codec = ProductCodec(gaussian(17, 3, 16, 4), predictor=TokenPredictor(*tables, *empty))
    records = codec.encode(gaussian(18, 2, DIM), np.array([0, 8]))

    with pytest.raises(ConfigError, match="predicts from token ids"):
        to_faiss(codec)
    with pytest.raises(ConfigError, match="predicts from token ids"):
        codes_to_faiss(codec, records)
    with pytest.raises(ConfigError, match="predicts from token ids"):
        codes_from_faiss(codec, np.zeros((2, 2), np.uint8))


def test_a_number_of_centroids_that_faiss_cannot_have_is_refused() -> None:
    """Its codes are of whole bits."""
    with pytest.raises(ConfigError, match="has 300 centroids a subspace; faiss has powers of two"):
        to_faiss(ProductCodec(gaussian(19, 3, 300, 4)))


def test_a_rotation_that_is_none_is_not_exported() -> None:
    """To undo it, faiss would transpose it."""
    scaled = Rotation(2 * np.eye(DIM, dtype=np.float32)[None], np.arange(DIM, dtype=np.int32))

    with pytest.raises(ConfigError, match="not orthogonal"):
        to_faiss(ProductCodec(gaussian(20, 3, 16, 4), rotation=scaled))


def test_codes_and_records_of_another_codec_are_refused() -> None:
    """By their width, their dtype, or a centroid that does not exist."""
    codec = ProductCodec(gaussian(21, 3, 16, 4))
    records = codec.encode(gaussian(22, 5, DIM))

    with pytest.raises(ShapeError, match=r"wanted uint8 \(T, 2\): 3 codes of 4 bits"):
        codes_from_faiss(codec, np.zeros((5, 3), np.uint8))
    with pytest.raises(ShapeError, match=r"wanted uint8 \(T, 2\)"):
        codes_from_faiss(codec, np.zeros((5, 2), np.int32))
    with pytest.raises(ShapeError, match=r"records: got shape \(5, 1\), wanted \(T, 2\)"):
        codes_to_faiss(codec, np.ascontiguousarray(records[:, :1]))
    records[3, 0] = 16
    with pytest.raises(CorruptionError, match="record 3 names a centroid beyond the codec's 16"):
        codes_to_faiss(codec, records)
