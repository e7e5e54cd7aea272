"""The benchmarks by name."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from benchmarks.registry import BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_a_module(name: str) -> None:
    """A name that leads nowhere would be found only when all of them run."""
    assert find_spec(f"benchmarks.{name}") is not None
