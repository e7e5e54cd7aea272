"""Comparisons of families on a sample."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.codec import ProductCodec, reconstruction
from memstore.codec.comparison import FAMILIES, Comparison, Row, Step, compare
from memstore.codec.sample import Sample
from memstore.errors import ConfigError, ShapeError

DIM = 64


@pytest.fixture(scope="module")
def sample() -> Sample:
    """Ten documents of 3 passages of 40 tokens; a memory is mostly decided by its token."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(0, 30, 1200).astype(np.int32)
    mixing = rng.standard_normal((DIM, DIM)) * np.geomspace(1, 0.02, DIM)
    noise = 0.5 * rng.standard_normal((1200, DIM))
    tokens = rng.standard_normal((30, DIM))
    return Sample(
        ((tokens[token_ids] + noise) @ mixing).astype(np.float16),
        token_ids,
        np.arange(0, 1201, 40),
        (tokens @ mixing).astype(np.float32),
        np.repeat(np.arange(10), 3),
    )


@pytest.fixture(scope="module")
def found(sample: Sample) -> Comparison:
    """All families on the sample, twice."""
    return compare(sample, rates=[16], num_seeds=2, held_out=0.2)


def _row(found: Comparison, family: str) -> Row:
    (row,) = (row for row in found.rows if row.family == family)
    return row


def test_every_family_that_fits_is_measured(found: Comparison) -> None:
    """In the order of the table; the layout of MEMORY-VQ wants a larger sample."""
    assert [row.family for row in found.rows] == [n for n in FAMILIES if n != "memory-vq"]
    assert list(found.left_out) == ["memory-vq"]
    assert "few for its 65,536 centroids" in found.left_out["memory-vq"]


@pytest.mark.parametrize(
    ("family", "num_bytes"),
    [
        ("pq", 8),
        ("pca", 8),
        ("pca-64", 8),
        ("opq", 8),
        ("norm-pca", 8 + 2),
        ("residual", 8),
        ("token-pca", 8 + 2),
        ("context-pca", 8 + 2),
        ("int8", 64 + 2),
        ("int4", 32 + 2 * 2),
        ("pca-int8", 8),
    ],
)
def test_all_bytes_of_a_token_are_counted(found: Comparison, family: str, num_bytes: float) -> None:
    """Codes of 2 · 64 / 16 bytes, and token id, length or scales beside them."""
    assert _row(found, family).bytes_per_token == num_bytes


def test_what_is_known_about_the_data_shows(found: Comparison) -> None:
    """Correlated dimensions: a rotation pays; memories decided by tokens: a prediction does."""
    errors = {row.family: row.relative_mse for row in found.rows}

    assert errors["token-pca"] < errors["pca"] < errors["pq"]
    assert errors["int8"] < errors["int4"] < errors["pq"] < 1
    assert found.best[16].relative_mse == min(
        row.relative_mse for row in found.rows if row.rate == 16
    )


def test_errors_are_means_over_seeds_of_what_a_codec_loses_on_the_rest(
    sample: Sample, found: Comparison
) -> None:
    """The figures of "pq", made by hand; the spread is the standard deviation."""
    errors = []
    for seed in range(2):
        training, rest = sample.split(0.2, seed)
        codec = ProductCodec.train(training.vectors, num_subspaces=8, codebook_size=256, seed=seed)
        errors.append(reconstruction(rest.vectors, codec))

    row = _row(found, "pq")

    assert row.relative_mse == pytest.approx(np.mean([e.relative_mse for e in errors]))
    assert row.spread == pytest.approx(np.std([e.relative_mse for e in errors], ddof=1))
    assert row.layer_norm_mse == pytest.approx(np.mean([e.layer_norm_mse for e in errors]))
    assert row.rms_norm_mse == pytest.approx(np.mean([e.rms_norm_mse for e in errors]))
    assert row.cosine == pytest.approx(np.mean([e.cosine for e in errors]))
    assert row.codec_bytes == codec.codebook.nbytes
    assert row.encode_tokens_per_s > 0
    assert row.decode_tokens_per_s > 0


def test_families_that_predict_need_token_ids(sample: Sample) -> None:
    """Without them they are left out with the reason, and the others are measured."""
    bare = compare(Sample(sample.vectors), families=["pq", "token-pca"], rates=[16], num_seeds=1)

    assert [row.family for row in bare.rows] == ["pq"]
    assert "no token_ids" in bare.left_out["token-pca"]
    assert bare.rows[0].spread == 0


def test_token_ids_without_a_vocabulary_are_enough(sample: Sample) -> None:
    """The largest id tells how many there are."""
    known = Sample(sample.vectors, sample.token_ids, sample.offsets)

    assert compare(known, families=["token-pca"], rates=[16], num_seeds=1).rows


def test_a_rate_that_does_not_divide_the_dimension_is_left_out(sample: Sample) -> None:
    """In all seeds, with the reason; progress still ends at the end."""
    steps: list[Step] = []

    found = compare(
        sample, families=["pq"], rates=[24, 16], num_seeds=2, held_out=0.2, progress=steps.append
    )

    assert [row.rate for row in found.rows] == [16]
    assert "cannot be a part in 24 of 64 dimensions" in found.left_out["pq at 24x"]
    assert [step.what for step in steps] == [
        "pq at 16x, seed 0",
        "pq at 24x, seed 0",
        "pq at 16x, seed 1",
        "done",
    ]
    assert (steps[-1].done, steps[-1].total, steps[-1].left_s) == (4, 4, 0)


def test_the_time_left_is_told_from_what_others_took(sample: Sample) -> None:
    """Before the first measurement it is not known; then by effort; and it shrinks."""
    steps: list[Step] = []

    compare(sample, families=["int8", "int4"], num_seeds=2, progress=steps.append)

    assert steps[0].left_s is None
    assert all(step.left_s for step in steps[1:-1])


def test_a_family_asked_for_by_name_is_tried(sample: Sample) -> None:
    """Here it has fewer vectors than centroids: nothing is left, and that is an error."""
    with pytest.raises(ConfigError, match="memory-vq at 16x: training vectors: got"):
        compare(sample, families=["memory-vq"], rates=[16], num_seeds=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"families": ["pq", "nope"]}, "unknown nope; wanted some of pq, memory-vq"),
        ({"rates": [1]}, "rates: got 1"),
        ({"held_out": 1.0}, "held_out: got 1.0"),
        ({"num_seeds": 0}, "seeds: got 0"),
    ],
)
def test_arguments_are_checked(sample: Sample, arguments: dict[str, object], message: str) -> None:
    """Before any work."""
    with pytest.raises(ConfigError, match=message):
        compare(sample, **arguments)  # type: ignore[arg-type]


def test_a_sample_of_one_document_cannot_be_compared_on() -> None:
    """Nothing can be held out."""
    with pytest.raises(ShapeError, match="one document"):
        compare(Sample(np.ones((3, 2), np.float32), None, np.array([0, 3])), num_seeds=1)
