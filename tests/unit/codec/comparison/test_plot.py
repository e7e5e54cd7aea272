"""The plot of a comparison."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from memstore.codec.comparison import Comparison, Row, check_plot, plot
from memstore.errors import ConfigError, MissingDependencyError, StorageError


@pytest.fixture
def found() -> Comparison:
    """Two families."""
    rows = [
        Row(
            family=family,
            rate=rate,
            bytes_per_token=64 / rate,
            relative_mse=error * rate,
            spread=0.001,
            layer_norm_mse=0.1,
            rms_norm_mse=0.1,
            cosine=0.9,
            encode_tokens_per_s=1,
            decode_tokens_per_s=1,
            codec_bytes=1,
        )
        for family, error in [("pq", 0.02), ("pca", 0.01)]
        for rate in (8, 16)
    ]
    return Comparison(
        rows=tuple(rows), left_out={}, dim=32, num_vectors=1000, held_out=0.1, num_seeds=2
    )


def test_the_plot_names_families_and_axes(found: Comparison, tmp_path: Path) -> None:
    """As text in the SVG; equal figures give equal files."""
    pytest.importorskip("matplotlib")

    plot(found, tmp_path / "new" / "a.svg")
    plot(found, tmp_path / "b.svg")

    drawn = (tmp_path / "new" / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    for text in (">pq<", ">pca<", "bytes per token", "relative MSE", "1,000 vectors of 32"):
        assert text in drawn


def test_a_plot_without_the_extra_names_it(
    found: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is written."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(MissingDependencyError, match=r"pip install 'memstore\[plot\]'"):
        plot(found, tmp_path / "a.svg")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a.txt", "a.svg.gz"])
def test_an_unknown_format_is_refused(name: str) -> None:
    """The suffix names it."""
    with pytest.raises(ConfigError, match=r"wanted a plot named \.svg, \.png, \.pdf"):
        check_plot(Path(name))


def test_a_plot_that_cannot_be_written_is_a_storage_error(
    found: Comparison, tmp_path: Path
) -> None:
    """Here a file stands where the folder would."""
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageError, match="the plot cannot be written"):
        plot(found, tmp_path / "file" / "a.svg")
