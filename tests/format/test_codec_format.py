"""Codecs written by released versions load for ever, to the same bits."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from memstore.codec import ProductCodec

GOLDEN = Path(__file__).parent / "golden" / "codec_v1"

IDS = {
    "bits8": "7be6ad09075191eb08d0dd85721124c03e3ddab13833f0445f072d0cec7bcfe7",
    "bits16": "9abf8046fd0aaf818d2bab54c89caae027900e7dafd90ef1288da49a86dce6a1",
}
SHAPES = {"bits8": (3, 5, 2), "bits16": (2, 257, 2)}
DTYPES = {"bits8": np.dtype(np.float32), "bits16": np.dtype(ml_dtypes.bfloat16)}
RECORDS = {
    "bits8": [[0x0301, 0x0004], [0x0000, 0x0000], [0x0404, 0x0002]],
    "bits16": [[0x0100, 0x0001], [0x00FF, 0x0100]],
}
CODES = {
    "bits8": [[1, 3, 4], [0, 0, 0], [4, 4, 2]],
    "bits16": [[256, 1], [255, 256]],
}
NAMES = sorted(IDS)


def golden_codebook(name: str) -> np.ndarray:
    """Return the codebook that the files were made from: eighths, exact in every dtype."""
    shape = SHAPES[name]
    values = np.arange(np.prod(shape)) * 37 % 101 - 50
    return (values / 8).reshape(shape).astype(DTYPES[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_codec_loads(name: str) -> None:
    """The id, the shape and every centroid are what they were."""
    codec = ProductCodec.load(GOLDEN / name, codec_id=IDS[name])

    assert codec.codebook.dtype == DTYPES[name]
    assert np.array_equal(codec.codebook, golden_codebook(name))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_golden_records_decode_to_the_same_vectors(name: str, dtype: str) -> None:
    """Records as they lie in shards name the centroids that they named when they were written."""
    codec = ProductCodec.load(GOLDEN / name)
    records = np.array(RECORDS[name], np.uint16)
    decoded = codec.decode(records, dtype=dtype)

    book = golden_codebook(name)
    wanted = [np.concatenate([book[m, code] for m, code in enumerate(row)]) for row in CODES[name]]
    assert np.array_equal(decoded, np.array(wanted).astype(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_golden_vectors_encode_to_the_same_records(name: str) -> None:
    """A centroid's own vector gets its code, or that of an earlier centroid that equals it."""
    codec = ProductCodec.load(GOLDEN / name)
    vectors = codec.decode(np.array(RECORDS[name], np.uint16))

    assert np.array_equal(codec.decode(codec.encode(vectors)), vectors)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_codebook_is_written_as_the_same_bytes(tmp_path: Path, name: str) -> None:
    """Codec ids do not change from one version to the next."""
    ProductCodec(golden_codebook(name)).save(tmp_path)

    for file in ("config.json", "codec.safetensors"):
        assert (tmp_path / file).read_bytes() == (GOLDEN / name / file).read_bytes()
