"""Training a codec through a local Ray: the same bytes as in one process; errors as themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from encoder_jobs import codec_job
from encoder_jobs.codec_job import TrainOptions, spread_training, train_codec
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.runners import RayRunner
from memstore.codec import train_codebook
from memstore.codec.sample import Sample, write_sample
from memstore.errors import ShapeError
from tests.integration.conftest import Done

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def ray_runner() -> Iterator[RayRunner]:
    """One Ray for the module; what asks for `--ray local` finds it running and leaves it so."""
    runner = RayRunner("local")
    yield runner
    runner.close()


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """600 memories of 6 dimensions in passages of 20."""
    rng = np.random.default_rng(0)
    token_ids = rng.integers(0, 12, 600).astype(np.int32)
    tokens = rng.standard_normal((12, 6)).astype(np.float32)
    vectors = tokens[token_ids] + rng.standard_normal((600, 6), np.float32)
    path = tmp_path / "sample"
    write_sample(path, Sample(vectors, token_ids, np.arange(0, 601, 20), tokens))
    return path


@pytest.mark.parametrize("stages", [{}, {"rotation": "pca", "predictor": "context"}])
def test_ray_and_one_process_train_the_same_codec(
    sample: Path, tmp_path: Path, stages: dict[str, str]
) -> None:
    """All bytes of both files, with stages and without."""
    options = TrainOptions(num_subspaces=3, codebook_size=16, seed=5, **stages)  # type: ignore[arg-type]

    with ProgressDisplay(quiet=True) as display:
        for name, ray in [("alone", "none"), ("ray", "local")]:
            train_codec(sample, tmp_path / name, options, ray=ray, display=display)

    for name in ("config.json", "codec.safetensors"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_task_for_every_subspace_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tasks there are; progress counts to the end."""
    monkeypatch.setattr(codec_job, "_TASK_BYTES", 1)
    vectors = np.random.default_rng(1).standard_normal((400, 10), np.float32)
    steps: list[tuple[int, int]] = []

    spread = spread_training(vectors, 5, 8, seed=2, progress=lambda *step: steps.append(step))

    np.testing.assert_array_equal(spread, train_codebook(vectors, 5, 8, seed=2))
    assert steps == [(done, 5) for done in range(6)]


def test_an_error_in_a_worker_arrives_as_itself() -> None:
    """The class and message of the library, not Ray's wrapping of them."""
    vectors = np.ones((40, 4), np.float32)
    vectors[7, 3] = np.nan

    with pytest.raises(ShapeError, match="row 7 holds NaN") as caught:
        spread_training(vectors, 2, 8)

    assert type(caught.value) is ShapeError
    assert "Traceback" not in str(caught.value)


def test_the_command_trains_on_ray(cli: Callable[..., Done], sample: Path, tmp_path: Path) -> None:
    """And shows the codec."""
    done = cli(
        *("codec", "train", sample, "--output", tmp_path / "codec", "--subspaces", 2),
        *("--codebook-size", 4, "--ray", "local"),
    )

    assert done.code == 0
    assert "num_subspaces    2" in done.out
