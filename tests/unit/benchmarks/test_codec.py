"""The parts of the codec's benchmark that figures could be wrong by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from benchmarks.codec import decode, errors, materials, peers, targets
from benchmarks.codec.activations import Activations
from benchmarks.codec.parts import CEILING, Bar, Part, Subject, least, once, repeated, time_each
from benchmarks.codec.plot import draw
from benchmarks.codec.sizes import QUICK
from benchmarks.harness import Figure
from memstore.codec import ProductCodec
from memstore.codec.interchange import codes_to_faiss
from memstore.codec.kernels import reference

SHAPE = (3, 512, 4)


def gaussian(seed: int, *shape: int) -> np.ndarray:
    """Return float32 normals."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture
def codec() -> ProductCodec:
    """Three subspaces of 512 centroids, bfloat16."""
    return ProductCodec(gaussian(1, *SHAPE).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    "make",
    [
        peers.flat_search,
        lambda centroids: peers.torch_search(centroids, gaussian(2, 40, 4)),
        lambda centroids: peers.numpy_search(centroids, gaussian(2, 40, 4)),
        lambda centroids: peers.graph_search(peers.graph_index(centroids), 512),
    ],
    ids=["flat", "torch", "numpy", "graph"],
)
def test_every_search_of_others_finds_the_nearest(
    make: Callable[[np.ndarray], peers.Search],
) -> None:
    """More vectors than a chunk; a peer that searched less would be too fast."""
    centroids, vectors = gaussian(3, 512, 4), gaussian(4, 1500, 4)

    codes = make(centroids)(vectors)

    codec = ProductCodec(centroids[None])
    assert errors.is_nearest(vectors, codec, codes[:, None])


def test_a_code_that_is_not_the_nearest_is_noticed(codec: ProductCodec) -> None:
    """Otherwise the gate is none."""
    vectors = gaussian(5, 20, codec.dim)
    codes = reference.assign(vectors, codec.codebook)
    assert errors.is_nearest(vectors, codec, codes)

    codes[7, 1] ^= 1

    assert not errors.is_nearest(vectors, codec, codes)
    assert errors.loss(vectors, codec, codes) > 1


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (peers.faiss_decode, np.float32),
        (peers.torch_decode, ml_dtypes.bfloat16),
        (peers.numpy_decode, ml_dtypes.bfloat16),
    ],
)
def test_every_decoder_of_others_fills_the_array_with_the_codebook(
    codec: ProductCodec, make: Callable[[ProductCodec], peers.Decode], dtype: type
) -> None:
    """Bit for bit, as ours."""
    codes = np.random.default_rng(6).integers(0, 512, (30, 3), np.uint16)
    out: np.ndarray = np.full((30, codec.dim), np.nan, dtype)

    make(codec)(codes_to_faiss(codec, codes) if make is peers.faiss_decode else codes, out)

    wanted: np.ndarray = reference.gather(codes, codec.codebook).astype(dtype)
    assert out.tobytes() == wanted.tobytes()


def test_a_decoder_is_given_other_codes_each_time() -> None:
    """All of them before any again, whatever the batch; the amount is what a call decodes."""
    seen: list[int] = []
    codes = np.arange(20, dtype=np.uint16)[:, None]
    decoder = decode.Decoder(
        lambda part, _: seen.extend(part[:, 0].tolist()), codes, 2, np.dtype(np.float32)
    )

    subject = decoder.subject(5, decode.make_buffer(20, 2))
    subject.call(0)
    subject.call(1)

    assert subject.amount == 20
    assert seen == [*range(20), *range(20)]


def test_activations_fill_the_codec_with_other_tokens_each_time() -> None:
    """A column of the codec is that of a subspace, but no two show the same token in a row."""
    width, num_rows = QUICK.width, QUICK.encode_batches[-1]
    rows = np.arange(num_rows, dtype=np.float32)[:, None]
    held_out = np.repeat(np.concatenate([rows, rows + 1000], axis=1), width, axis=1)
    sample = np.zeros((4, 2 * width), np.float16)
    activations = Activations(sample, held_out, np.zeros(4, np.int32), "none")

    material = materials.of_activations(activations, gaussian(7, 2, 8, width), QUICK)

    columns = material.vectors[:, ::width]
    assert columns.shape == (num_rows, QUICK.num_subspaces)
    assert len(set((columns[0] % 1000).tolist())) == QUICK.num_subspaces // 2
    for place, column in enumerate(columns.T):
        assert np.array_equal(np.sort(column), held_out[:, place % 2 * width])
    assert np.array_equal(material.codec.codebook[0], material.codec.codebook[2])


def test_turned_codebooks_of_normals_are_as_good_as_the_first() -> None:
    """A turn keeps distances, so the lengths of centroids are the same, in another order."""
    centroids = gaussian(8, 64, QUICK.width)

    material = materials.as_trained(centroids, QUICK, seed=0)

    lengths = np.sort(np.linalg.norm(centroids, axis=1))
    for turned in material.codec.codebook.astype(np.float32):
        found = np.sort(np.linalg.norm(turned, axis=1))
        np.testing.assert_allclose(found, lengths, rtol=0.01)


class _Steps:
    """A clock that runs only while someone works or sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def run(self, seconds: float) -> None:
        self.now += seconds


def test_time_is_per_unit_of_work_and_does_not_count_pauses() -> None:
    """A call of 4 units in 2 s takes 0.5 s a unit, however long it rested before."""
    steps = _Steps()

    seconds = time_each(
        {"one": Subject(lambda _: steps.run(1), 1), "four": Subject(lambda _: steps.run(2), 4)},
        rounds=3,
        pause_s=7,
        timer=lambda: steps.now,
        sleep=steps.run,
    )

    np.testing.assert_array_equal(seconds["one"], np.ones((3, 1)))
    np.testing.assert_array_equal(seconds["four"], np.full((3, 1), 0.5))
    assert steps.now == 4 * (1 + 2 + 2 * 7)


def test_repeated_work_counts_as_often_as_it_is_done() -> None:
    """Each time as a turn of its own."""
    turns: list[int] = []

    subject = repeated(Subject(turns.append, 2.5), 3)
    subject.call(0)
    subject.call(1)

    assert turns == [0, 1, 2, 3, 4, 5]
    assert subject.amount == 7.5


def test_of_a_ratio_the_worst_batch_is_told() -> None:
    """With its own spread."""
    assert least([once(3.0), Figure(2.0, 1.0, 9.0, "", 5)]).low == 1.0


@pytest.mark.parametrize(
    ("is_error", "values", "wanted"),
    [
        (False, (40, 50), "aim"),
        (False, (40, 20), "asked"),
        (False, (14, 50), "no"),
        (True, (0.9, 0.95), "aim"),
        (True, (0.9, 0.99), "asked"),
        (True, (1.01, 0.9), "no"),
    ],
)
def test_the_worse_kind_of_data_counts(
    is_error: bool,
    values: tuple[float, float],
    wanted: str,
) -> None:
    """Large ratios and small errors are good."""
    target = targets.Target("x", 1 if is_error else 15, 0.97 if is_error else 40, is_error)

    assert targets.verdict(target, map(once, values)) == wanted


def test_the_table_of_targets_gathers_what_the_parts_found() -> None:
    """A target that was measured on one kind of data has one figure."""
    normals = {name: {"normals": once(99)} for name in targets.TARGETS}
    activations = {"flat": {"activations": once(0.5)}}
    parts = [Part(gates=[], tables=[], targets=found) for found in (normals, activations)]

    rows = {row[0]: row for row in targets.table(parts).rows}

    flat = rows[targets.TARGETS["flat"].name]
    assert flat[1:3] == ("≥ 1", "≥ 1.5")
    assert (flat[3], flat[4], flat[5]) == (once(99), once(0.5), "no")
    assert rows[targets.TARGETS["decode"].name][4:] == ("", "aim")


def test_the_plot_is_the_same_bytes_for_the_same_figures(tmp_path: Path) -> None:
    """So it changes in git only when a figure does."""
    bars = [
        Bar("encode", "ours", "normals", Figure(5.0, 4.0, 6.0, "", 5)),
        Bar("decode", "ours", "activations", once(7.0)),
        Bar("decode", f"{CEILING}copy", "activations", once(9.0)),
    ]

    draw(bars, tmp_path / "one.svg")
    draw(bars, tmp_path / "two.svg")

    content = (tmp_path / "one.svg").read_bytes()
    assert content == (tmp_path / "two.svg").read_bytes()
    assert b"<svg" in content
