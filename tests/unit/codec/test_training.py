"""Training, and the choice of a layout."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from memstore.codec import Layout, ProductCodec, choose_layout, reconstruction, train_codebook
from memstore.errors import ConfigError, ShapeError


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Correlated normals, like memories: (4000, 16) float32."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((4000, 16)) @ rng.standard_normal((16, 16)) + 1).astype(np.float32)


def test_more_centroids_lose_less(vectors: np.ndarray) -> None:
    """Held-out error falls with K and is far below that of the mean alone."""
    errors = [
        reconstruction(
            vectors[3000:],
            ProductCodec.train(vectors[:3000], num_subspaces=4, codebook_size=size),
        ).relative_mse
        for size in (4, 16, 64)
    ]

    assert 0.6 > errors[0] > errors[1] > errors[2] > 0


def test_the_same_seed_gives_the_same_codec(vectors: np.ndarray) -> None:
    """A seed decides the codec, to the bit; another seed gives another."""
    ids = [
        ProductCodec.train(vectors, num_subspaces=2, codebook_size=32, seed=seed).id
        for seed in (5, 5, 6)
    ]

    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_codebook_is_kept_in_the_dtype_asked_for(vectors: np.ndarray, dtype: str) -> None:
    """bfloat16 halves the codebook's size."""
    codec = ProductCodec.train(vectors, num_subspaces=2, codebook_size=8, dtype=dtype)

    assert codec.codebook.dtype.name == dtype
    assert codec.codebook.shape == (2, 8, 8)


def test_a_mapped_float16_sample_is_trained_on(tmp_path: Path, vectors: np.ndarray) -> None:
    """A sample on disk gives the codebook of the same values in memory."""
    np.save(tmp_path / "sample.npy", vectors.astype(np.float16))
    mapped = np.load(tmp_path / "sample.npy", mmap_mode="r")

    codebook = train_codebook(mapped, 2, 16)

    assert np.array_equal(codebook, train_codebook(vectors.astype(np.float16), 2, 16))


def test_a_sample_is_read_in_slabs(
    tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One subspace at a time gives what all at once give."""
    np.save(tmp_path / "sample.npy", vectors)
    mapped = np.load(tmp_path / "sample.npy", mmap_mode="r")
    at_once = train_codebook(mapped, 4, 16)

    monkeypatch.setattr("memstore.codec.training._SLAB_BYTES", 1)
    monkeypatch.setattr("memstore.codec.training._ROWS", 999)

    assert np.array_equal(train_codebook(mapped, 4, 16), at_once)


@pytest.mark.parametrize("subspaces", [range(1), range(1, 3), range(3, 4), range(4)])
def test_some_subspaces_come_out_as_among_all(vectors: np.ndarray, subspaces: range) -> None:
    """A job may spread them over workers."""
    some = train_codebook(vectors, 4, 16, subspaces=subspaces)

    assert np.array_equal(some, train_codebook(vectors, 4, 16)[subspaces.start : subspaces.stop])


@pytest.mark.parametrize("subspaces", [range(0), range(-1, 2), range(3, 5), range(0, 4, 2)])
def test_subspaces_that_are_not_there_are_refused(vectors: np.ndarray, subspaces: range) -> None:
    """None, too many, or not next to each other."""
    with pytest.raises(ConfigError, match="wanted neighbours among the 4 subspaces"):
        train_codebook(vectors, 4, 16, subspaces=subspaces)


def test_a_bad_row_is_named(vectors: np.ndarray) -> None:
    """Wherever in the sample it is."""
    damaged = vectors.copy()
    damaged[3210, 7] = np.inf

    with pytest.raises(ShapeError, match="row 3210 holds NaN or infinity"):
        train_codebook(damaged, 4, 16)


def test_bfloat16_samples_are_trained_on(vectors: np.ndarray) -> None:
    """Encoders on a GPU give bfloat16."""
    assert train_codebook(vectors.astype(ml_dtypes.bfloat16), 2, 4).dtype == np.float32


def test_progress_counts_subspaces(vectors: np.ndarray) -> None:
    """From none to all."""
    calls: list[tuple[int, int]] = []

    train_codebook(vectors, 4, 4, progress=lambda done, total: calls.append((done, total)))

    assert calls == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_few_points_a_centroid_are_trained_on_with_a_warning(
    vectors: np.ndarray, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The warning says the rule and goes to the log, nothing to the terminal."""
    codec = ProductCodec.train(vectors[:128], num_subspaces=2, codebook_size=128)

    assert codec.codebook_size == 128
    assert "the rule: at least 39 a centroid, 4992" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_enough_points_are_trained_on_in_silence(
    vectors: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """39 a centroid and nothing is logged."""
    train_codebook(vectors[: 39 * 8], 2, 8)

    assert caplog.text == ""


def test_points_that_are_all_equal_make_finite_centroids() -> None:
    """Clusters without points are refilled, not divided by zero."""
    codec = ProductCodec.train(np.ones((50, 4), np.float32), num_subspaces=2, codebook_size=16)

    decoded = codec.decode(codec.encode(np.ones((1, 4), np.float32)))

    assert np.isfinite(codec.codebook).all()
    assert np.allclose(decoded, 1, atol=0.01)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ([[0.0]], "wanted an array"),
        (np.zeros((100, 8)), "wanted an array"),
        (np.zeros(100, np.float32), "wanted an array"),
        (np.zeros((31, 8), np.float32), "got 31, wanted at least 32, one a centroid .1248 for"),
        (np.full((100, 8), np.nan, np.float16), "row 0 holds NaN"),
    ],
)
def test_a_wrong_sample_is_refused(sample: Any, message: str) -> None:
    """The message says what came and what was wanted."""
    with pytest.raises(ShapeError, match=message):
        ProductCodec.train(sample, num_subspaces=2, codebook_size=32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_subspaces": 3}, "got 3, wanted a divisor of the dimension 8"),
        ({"num_subspaces": 0}, "got 0, wanted a divisor"),
        ({"num_subspaces": 2, "codebook_size": 1}, "got 1, wanted 2 to 65,536"),
        ({"num_subspaces": 2, "codebook_size": 65_537}, "got 65537, wanted 2 to 65,536"),
        ({"num_subspaces": 2, "codebook_size": 4, "seed": -1}, "seed: got -1"),
        ({"num_subspaces": 2, "codebook_size": 4, "dtype": "float16"}, "got 'float16'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """The message says what came and what was wanted."""
    with pytest.raises(ConfigError, match=message):
        ProductCodec.train(np.zeros((100, 8), np.float32), **options)


@pytest.mark.parametrize(
    ("dim", "num_vectors", "layout"),
    [
        (4096, 39 * 65_536, Layout(256, 65_536)),
        (384, 39 * 65_536 - 1, Layout(48, 256)),
        (8, 39 * 65_536, Layout(1, 256)),
        (384, 39 * 256, Layout(48, 256)),
        (384, 39 * 256 - 1, Layout(48, 128)),
        (384, 100, Layout(48, 2)),
        (384, 0, Layout(48, 2)),
        (100, 10_000, Layout(20, 256)),
        (12, 10_000, Layout(2, 256)),
        (7, 10_000, Layout(1, 256)),
    ],
)
def test_the_layout_follows_from_width_and_sample(
    dim: int, num_vectors: int, layout: Layout
) -> None:
    """A sixteenth of bfloat16 where the width allows, as many centroids as the sample allows."""
    assert choose_layout(dim, num_vectors) == layout


def test_a_small_sample_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """Fewer centroids than 256 are not chosen silently."""
    with caplog.at_level(logging.WARNING):
        choose_layout(384, 5000)

    assert "5000 training vectors allow 128 centroids" in caplog.text
    assert "at least 39 vectors a centroid" in caplog.text


@pytest.mark.parametrize("dim", [1, 11, 13 * 17])
def test_a_width_without_a_small_divisor_is_refused(dim: int) -> None:
    """The message says what to do."""
    with pytest.raises(ConfigError, match=f"divides {dim}; choose num_subspaces by hand"):
        choose_layout(dim, 10_000)
