"""`memstore codec show` and `compare`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memstore.cli.codec import compare
from memstore.cli.main import run
from memstore.codec import ProductCodec
from memstore.codec.comparison import FAMILIES

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return `cli(*arguments)`: run one command, give exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(["codec", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """400 vectors of 16 dimensions, bare."""
    path = tmp_path / "sample.npy"
    np.save(path, np.random.default_rng(0).standard_normal((400, 16)).astype(np.float16))
    return path


@pytest.fixture
def codec() -> ProductCodec:
    """Two subspaces of four centroids, rotated."""
    vectors = np.random.default_rng(1).standard_normal((100, 4), np.float32)
    return ProductCodec.train(vectors, num_subspaces=2, codebook_size=4, rotation="pca")


def test_a_codec_is_shown_with_its_parts(cli: Command, codec: ProductCodec, tmp_path: Path) -> None:
    """As JSON: shape, stages, and every table's bytes."""
    codec.save(tmp_path)

    code, out, err = cli("show", tmp_path, "--output", "json")

    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "codec_id": codec.id,
        "dim": 4,
        "num_subspaces": 2,
        "codebook_size": 4,
        "dtype": "bfloat16",
        "stages": [{"kind": "rotation", "block": 4}],
        "bytes_per_token": 2,
        "compression": 4.0,
        "codec_bytes": 2 * 2 * 4 * 2 + 4 * 16 + 4 * 4,
        "parts": {
            "codebook": 2 * 2 * 4 * 2,
            "rotation.blocks": 4 * 16,
            "rotation.order": 4 * 4,
        },
    }


def test_a_codec_is_shown_to_people(cli: Command, codec: ProductCodec, tmp_path: Path) -> None:
    """A field a line."""
    codec.save(tmp_path)

    out = cli("show", tmp_path)[1]

    assert f"codec_id         {codec.id}\n" in out
    assert "stages           rotation (block: 4)\n" in out
    assert "rotation.blocks: 64" in out


def test_a_folder_without_a_codec_is_not_found(cli: Command, tmp_path: Path) -> None:
    """Exit code 3."""
    code, out, err = cli("show", tmp_path)

    assert (code, out) == (3, "")
    assert "no codec here" in err


def test_a_comparison_is_a_table_and_one_line(cli: Command, sample: Path) -> None:
    """Data on stdout; progress and what is left out on stderr."""
    code, out, err = cli("compare", sample, "--rates", "8,16", "--families", "pq,token-pca,int8")

    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:4] == ["family", "rate", "bytes", "mse"]
    assert [line.split()[:3] for line in lines[1:-1]] == [
        ["pq", "8x", "4"],
        ["pq", "16x", "2"],
        ["int8", "-", "18"],
    ]
    assert lines[-1].startswith("least error: 8x pq (")
    assert "16x pq (" in lines[-1]
    assert "0 of 3: pq at 8x, seed 0\n" in err
    assert "3 of 3: done\n" in err
    assert "note: token-pca is left out: the sample holds no token_ids" in err


def test_a_comparison_as_json_names_the_best(cli: Command, sample: Path) -> None:
    """With all that was asked for; `--quiet` shows no progress."""
    code, out, err = cli(
        *("compare", sample, "--rates", "8", "--families", "pq,pca", "--seeds", "1"),
        *("--held-out", "0.25", "--quiet", "--output", "json"),
    )

    found = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["family"] for row in found["rows"]] == ["pq", "pca"]
    assert found["best"] == {"8": min(found["rows"], key=lambda row: row["relative_mse"])["family"]}
    assert (found["dim"], found["num_vectors"]) == (16, 400)
    assert (found["held_out"], found["num_seeds"]) == (0.25, 1)


def test_a_comparison_is_drawn(cli: Command, sample: Path, tmp_path: Path) -> None:
    """Into the file that was named."""
    pytest.importorskip("matplotlib")

    code, _, _ = cli(
        "compare", sample, "--families", "int8", "--seeds", 1, "--plot", tmp_path / "plot.svg"
    )

    assert code == 0
    assert ">int8<" in (tmp_path / "plot.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rates", "8,x"), "--rates: got '8,x', wanted numbers"),
        (("--families", "pq,"), "families: got unknown"),
        (("--plot", "plot.gif"), "wanted a plot named"),
    ],
)
def test_what_cannot_be_compared_is_a_usage_error(
    cli: Command, sample: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Exit code 2, before any work."""
    code, out, err = cli("compare", sample, *arguments)

    assert (code, out) == (2, "")
    assert message in err


def test_the_help_names_every_family() -> None:
    """In their order."""
    assert f"Families: {', '.join(FAMILIES)}." in " ".join(f"{compare.__doc__}".split())


def test_a_missing_sample_is_not_found(cli: Command, tmp_path: Path) -> None:
    """Exit code 3, and how to make one."""
    code, _, err = cli("compare", tmp_path / "sample")

    assert code == 3
    assert "memstore codec sample makes one" in err
