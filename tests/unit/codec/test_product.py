"""The product codec."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from memstore.codec import ProductCodec
from memstore.codec.kernels import reference
from memstore.errors import (
    AlreadyExistsError,
    CodecNotFoundError,
    ConfigError,
    CorruptionError,
    FormatVersionError,
    ShapeError,
    StorageError,
    StorageFullError,
)

SHAPES = [(4, 16, 4), (3, 256, 4), (3, 300, 2)]  # two codes a word, the same with a pad, one a word


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture(params=SHAPES, ids=str)
def codec(request: pytest.FixtureRequest) -> ProductCodec:
    """A bfloat16 codec of each record layout."""
    return ProductCodec(gaussian(1, *request.param).astype(ml_dtypes.bfloat16))


@pytest.fixture
def small() -> ProductCodec:
    """A float32 codec: D=8, M=4, K=300, W=4."""
    return ProductCodec(gaussian(2, 4, 300, 2))


def unpacked(codec: ProductCodec, records: np.ndarray) -> np.ndarray:
    """Return (T, M) codes of records, by arithmetic."""
    if codec.codebook_size > 256:
        return records
    pairs = np.stack([records & 0xFF, records >> 8], axis=2)
    return pairs.reshape(len(records), -1)[:, : codec.num_subspaces]


def test_records_hold_the_nearest_centroids(codec: ProductCodec) -> None:
    """Encoding equals the reference on the stored centroids."""
    vectors = gaussian(3, 200, codec.dim)

    records = codec.encode(vectors)

    assert records.dtype == np.uint16
    assert records.shape == (200, codec.record_words)
    assert np.array_equal(unpacked(codec, records), reference.assign(vectors, codec.codebook))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decode_is_the_codebook_cast(shape: tuple[int, int, int], stored: str, dtype: str) -> None:
    """Every pair of dtypes gives what a cast of the centroids gives."""
    codec = ProductCodec(gaussian(1, *shape).astype(stored))
    records = codec.encode(gaussian(4, 150, codec.dim))

    decoded = codec.decode(records, dtype=dtype)

    wanted = reference.gather(unpacked(codec, records), codec.codebook).astype(dtype)
    assert decoded.dtype == np.dtype(dtype)
    assert decoded.tobytes() == wanted.tobytes()


def test_decode_fills_the_callers_buffer(small: ProductCodec) -> None:
    """`out` is filled and returned, whatever was in it."""
    records = small.encode(gaussian(5, 20, 8))
    out = np.full((20, 8), np.nan, np.float32)

    assert small.decode(records, out=out) is out

    assert np.array_equal(out, small.decode(records))


def test_records_of_int16_are_the_same_bits() -> None:
    """Arrow stores int16: codes of 32,768 and more come as negative numbers."""
    codec = ProductCodec(gaussian(6, 1, 40_000, 1))
    records = np.array([[39_999], [32_768], [5]], np.uint16)

    assert np.array_equal(codec.decode(records.view(np.int16)), codec.decode(records))


def test_records_may_be_strided_and_read_only(codec: ProductCodec) -> None:
    """A slice of a mapped shard and every other row decode as well."""
    records = codec.encode(gaussian(7, 40, codec.dim))
    decoded = codec.decode(records)
    records.flags.writeable = False

    assert np.array_equal(codec.decode(records[::2]), decoded[::2])
    assert np.array_equal(codec.decode(np.asfortranarray(records)), decoded)


def test_no_vectors_make_no_records(codec: ProductCodec) -> None:
    """An empty passage is encoded and decoded."""
    records = codec.encode(np.empty((0, codec.dim), np.float32))

    assert records.shape == (0, codec.record_words)
    assert codec.decode(records, dtype="bfloat16").shape == (0, codec.dim)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_are_cast_before_encoding(small: ProductCodec, dtype: str) -> None:
    """Encoding a cast array and casting it first are the same."""
    vectors = gaussian(8, 30, 8).astype(dtype)

    assert np.array_equal(small.encode(vectors), small.encode(vectors.astype(np.float32)))


def test_vectors_may_be_strided(small: ProductCodec) -> None:
    """Order in memory does not matter."""
    vectors = gaussian(9, 60, 8)
    records = small.encode(vectors)

    assert np.array_equal(small.encode(np.asfortranarray(vectors)), records)
    assert np.array_equal(small.encode(vectors[::3]), records[::3])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused_with_their_row(
    small: ProductCodec, value: float
) -> None:
    """The first bad row is named; a float64 beyond float32 counts."""
    vectors = gaussian(10, 500, 8).astype(np.float64)
    vectors[[321, 400], [7, 0]] = value

    with pytest.raises(ShapeError, match="row 321 holds NaN or infinity"):
        small.encode(vectors)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[0.0] * 8], "got a list"),
        (np.zeros((2, 8), np.int64), "got an array of int64"),
        (np.zeros((2, 8), ">f4"), "got an array of >f4"),
        (np.zeros((2, 7), np.float32), r"got shape \(2, 7\), wanted \(T, 8\)"),
        (np.zeros(8, np.float32), r"got shape \(8,\), wanted \(T, 8\)"),
    ],
)
def test_wrong_vectors_are_refused(small: ProductCodec, vectors: Any, message: str) -> None:
    """The message says what came and what was wanted."""
    with pytest.raises(ShapeError, match=message):
        small.encode(vectors)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([[0] * 4], "got a list"),
        (np.zeros((2, 4), np.int32), "got an array of int32"),
        (np.zeros((2, 3), np.uint16), r"got shape \(2, 3\), wanted \(T, 4\)"),
        (np.zeros(4, np.uint16), r"got shape \(4,\), wanted \(T, 4\)"),
    ],
)
def test_wrong_records_are_refused(small: ProductCodec, records: Any, message: str) -> None:
    """The message says what came and what was wanted."""
    with pytest.raises(ShapeError, match=message):
        small.decode(records)


@pytest.mark.parametrize(
    "out",
    [
        [[0.0] * 8] * 2,
        np.zeros((2, 8), np.float64),
        np.zeros((3, 8), np.float32),
        np.zeros((8, 2), np.float32).T,
        np.zeros((2, 16), np.float32)[:, ::2],
        np.broadcast_to(np.float32(0), (2, 8)),
        np.zeros(65, np.uint8)[1:].view(np.float32).reshape(2, 8),
    ],
)
def test_a_buffer_that_cannot_be_filled_is_refused(small: ProductCodec, out: Any) -> None:
    """Type, dtype, shape, order, alignment and permission are checked."""
    with pytest.raises(ShapeError, match="out: "):
        small.decode(np.zeros((2, 4), np.uint16), out=out)


def test_an_unknown_dtype_is_refused(small: ProductCodec) -> None:
    """The message lists the three."""
    with pytest.raises(ConfigError, match="'int8', wanted bfloat16 or float16 or float32"):
        small.decode(np.zeros((1, 4), np.uint16), dtype="int8")


@pytest.mark.parametrize("shape", [(4, 16, 4), (3, 300, 2)])
def test_a_code_beyond_the_codebook_is_corruption(shape: tuple[int, int, int]) -> None:
    """K and more name no centroid; the first such record is named."""
    codec = ProductCodec(gaussian(11, *shape))
    records = np.zeros((9, codec.record_words), np.uint16)
    records[5, -1] = shape[1]

    with pytest.raises(CorruptionError, match=f"record 5 names a centroid beyond .* {shape[1]}"):
        codec.decode(records)


def test_a_pad_byte_in_use_is_corruption() -> None:
    """Records of another codec do not pass as this one's."""
    codec = ProductCodec(gaussian(12, 3, 16, 2))

    with pytest.raises(CorruptionError, match="pad byte"):
        codec.decode(np.full((1, 2), 0x0101, np.uint16))


def test_a_codebook_too_large_for_float16_is_refused_there() -> None:
    """No infinity is made on the way out."""
    codec = ProductCodec(np.full((1, 2, 2), 1e6, np.float32))
    records = np.zeros((1, 1), np.uint16)

    with pytest.raises(ConfigError, match="values beyond float16"):
        codec.decode(records, dtype="float16")

    assert codec.decode(records, dtype="float32").tolist() == [[1e6, 1e6]]


@pytest.mark.parametrize(
    ("codebook", "message"),
    [
        ([[[0.0]]], "got a list"),
        (np.zeros((2, 4, 2)), "got an array of float64"),
        (np.zeros((2, 4, 2), ">f4"), "got an array of >f4"),
        (np.zeros((2, 4), np.float32), r"got shape \(2, 4\)"),
        (np.zeros((0, 4, 2), np.float32), r"got shape \(0, 4, 2\)"),
        (np.zeros((2, 1, 2), np.float32), "2 to 65,536 centroids"),
        (np.zeros((1, 65_537, 1), np.float32), "2 to 65,536 centroids"),
        (np.array([[[0], [1]], [[0], [np.nan]]], np.float32), "subspace 1 holds NaN"),
    ],
)
def test_a_wrong_codebook_is_refused(codebook: Any, message: str) -> None:
    """The message says what came and what was wanted."""
    with pytest.raises(ShapeError, match=message):
        ProductCodec(codebook)


def test_a_codec_keeps_its_own_codebook() -> None:
    """Changing the array afterwards does not change the codec, nor can its codebook be written."""
    codebook = gaussian(13, 2, 8, 2)
    codec = ProductCodec(codebook)
    codebook[:] = 0

    assert codec.codebook.any()
    with pytest.raises(ValueError, match="read-only"):
        codec.codebook[0, 0, 0] = 1


def test_codecs_are_equal_by_content(small: ProductCodec) -> None:
    """Same centroids, same id; another dtype or centroid, another id."""
    same = ProductCodec(np.asfortranarray(small.codebook))
    other = ProductCodec(small.codebook.astype(ml_dtypes.bfloat16))

    assert same == small
    assert same.id == small.id
    assert len({same, small, other}) == 2
    assert other != small
    assert small.id[:12] in repr(small)


def test_a_saved_codec_loads_as_itself(tmp_path: Path, codec: ProductCodec) -> None:
    """Round trip through a folder: equal, and mapped rather than copied."""
    codec.save(tmp_path / "a" / "b")

    loaded = ProductCodec.load(tmp_path / "a" / "b", codec_id=codec.id)

    vectors = gaussian(14, 20, codec.dim)
    assert loaded == codec
    assert np.array_equal(
        loaded.decode(loaded.encode(vectors)), codec.decode(codec.encode(vectors))
    )
    assert not loaded.codebook.flags.owndata
    assert (
        sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
        == [
            "config.json",
            "codec.safetensors",
        ][::-1]
    )


def test_a_codec_travels_as_bytes(codec: ProductCodec) -> None:
    """`files` and `from_bytes` are the two ends of a wire."""
    files = codec.files()
    assert list(files) == ["config.json", "codec.safetensors"]

    arrived = ProductCodec.from_bytes(
        bytes(files["config.json"]), bytes(files["codec.safetensors"]), codec_id=codec.id
    )

    assert arrived == codec


def test_saving_again_is_allowed_and_another_codec_is_not(
    tmp_path: Path, small: ProductCodec
) -> None:
    """A folder belongs to one codec."""
    small.save(tmp_path)
    small.save(tmp_path)

    with pytest.raises(AlreadyExistsError, match="holds another codec"):
        ProductCodec(gaussian(15, 2, 4, 2)).save(tmp_path)

    assert ProductCodec.load(tmp_path) == small


def test_a_full_disk_leaves_no_codec(
    tmp_path: Path, small: ProductCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the disk is typed, and neither a codec nor a temporary file is left."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StorageFullError, match="no space left"):
        small.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CodecNotFoundError):
        ProductCodec.load(tmp_path)


def test_a_file_in_the_folders_place_is_a_storage_error(
    tmp_path: Path, small: ProductCodec
) -> None:
    """Any other failure to write names the folder."""
    (tmp_path / "taken").write_text("")

    with pytest.raises(StorageError, match="taken: the codec cannot be written"):
        small.save(tmp_path / "taken")


@pytest.mark.parametrize("name", ["nowhere", "a file"])
def test_a_missing_codec_is_not_found(tmp_path: Path, name: str) -> None:
    """No folder, and a file in its place."""
    (tmp_path / "a file").write_text("")

    with pytest.raises(CodecNotFoundError, match=f"{name}: no codec here"):
        ProductCodec.load(tmp_path / name)


@pytest.mark.parametrize("name", ["config.json", "codec.safetensors"])
def test_every_flipped_bit_and_every_truncation_is_refused(tmp_path: Path, name: str) -> None:
    """With its id given, a codec loads whole and unchanged or not at all."""
    codec = ProductCodec(gaussian(16, 1, 3, 2))
    codec.save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    damaged = [content[:length] for length in range(0, len(content), 7)]
    damaged += [content + b"\0", content + b" "]
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        damaged.append(bytes(flipped))

    for version in damaged:
        path.write_bytes(version)
        with pytest.raises(CorruptionError, match=name):
            ProductCodec.load(tmp_path, codec_id=codec.id)


def test_another_codec_in_its_place_is_refused(tmp_path: Path, small: ProductCodec) -> None:
    """A codec that is sound in itself is not the one that was asked for."""
    ProductCodec(gaussian(17, 4, 300, 2)).save(tmp_path)

    with pytest.raises(CorruptionError, match=f"wanted {small.id}"):
        ProductCodec.load(tmp_path, codec_id=small.id)


def test_tensors_of_another_codec_are_refused_without_an_id(
    tmp_path: Path, small: ProductCodec
) -> None:
    """The configuration pins the tensors: files of two codecs do not mix."""
    small.save(tmp_path)
    other = ProductCodec(gaussian(18, 4, 300, 2))
    (tmp_path / "codec.safetensors").write_bytes(other.files()["codec.safetensors"])

    with pytest.raises(CorruptionError, match=r"codec\.safetensors: has sha256"):
        ProductCodec.load(tmp_path)


def test_a_configuration_that_does_not_fit_its_tensors_is_refused(small: ProductCodec) -> None:
    """Digests that match do not make up for a shape that does not."""
    files = small.files()
    config = json.loads(bytes(files["config.json"])) | {"num_subspaces": 2}

    with pytest.raises(CorruptionError, match=r"config.json promises .*\(2, 300, 4\)"):
        ProductCodec.from_bytes(json.dumps(config).encode(), files["codec.safetensors"])


def test_a_codec_with_stages_asks_for_an_upgrade(small: ProductCodec) -> None:
    """A stage that is not undone would give wrong vectors silently."""
    files = small.files()
    config = json.loads(bytes(files["config.json"])) | {"stages": [{"kind": "rotation"}]}

    with pytest.raises(FormatVersionError, match="newer memstore"):
        ProductCodec.from_bytes(json.dumps(config).encode(), files["codec.safetensors"])


def test_a_configuration_without_end_is_not_read(tmp_path: Path) -> None:
    """A megabyte is enough for any configuration."""
    (tmp_path / "config.json").write_bytes(b" " * ((1 << 20) + 1))

    with pytest.raises(CorruptionError, match="more than 1048576 bytes"):
        ProductCodec.load(tmp_path)
