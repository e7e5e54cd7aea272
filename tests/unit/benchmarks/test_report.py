"""Stored results as Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report import render, write_report


def _result(**changes: Any) -> dict[str, Any]:
    figure = {"value": 12.34, "low": 10.0, "high": 1500.4, "unit": "ms", "rounds": 5}
    once = {"value": 0.5, "low": 0.5, "high": 0.5, "unit": "", "rounds": 1}
    table = {"title": "Times", "columns": ["call", "p50", "share"], "rows": [["one", figure, once]]}
    return {
        "benchmark": "startup",
        "command": "python -m benchmarks startup",
        "quick": False,
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"cpu": "A processor", "cores": 2, "ram_gib": 8.0, "load_1min": 0.1},
        "commit": "0123456789abcdef",
        "versions": {"python": "3.11.0"},
        "seed": 0,
        "seconds": 60.0,
        "gates": ["it is right"],
        "settings": {"rounds": 5},
        "tables": [table],
        "notes": ["a note"],
    } | changes


def test_a_figure_stands_with_its_spread() -> None:
    """One that was taken once stands alone."""
    assert "| one | 12.3 ms [10.0 … 1,500] | 0.500 |" in render(_result())


def test_the_reader_is_told_how_to_get_the_same_figures() -> None:
    """Command, commit and machine stand below the tables."""
    text = render(_result())

    for fact in ("python -m benchmarks startup", "0123456789ab", "A processor", "it is right"):
        assert fact in text


def test_quick_figures_are_marked() -> None:
    """They must not be taken for results."""
    assert "Quick sizes" in render(_result(quick=True))
    assert "Quick sizes" not in render(_result())


def test_the_report_holds_every_stored_result(tmp_path: Path) -> None:
    """Benchmarks without a result are left out."""
    for name in ("startup", "query"):
        text = json.dumps(_result(benchmark=name))
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")

    count = write_report(tmp_path, tmp_path / "docs" / "benchmarks.md")

    written = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert count == 2
    assert written.count("\n## ") == 2
