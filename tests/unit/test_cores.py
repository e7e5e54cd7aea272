"""As many threads as there are cores for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from memstore import cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine of eight cores, in a control group of its own."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_CGROUP", tmp_path)
    cores._quota.cache_clear()
    yield
    cores._quota.cache_clear()


@pytest.mark.parametrize(
    ("quota", "wanted"),
    [
        (None, 8),
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("5000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("what is this\n", 8),
    ],
)
def test_a_containers_quota_limits_them(quota: str | None, wanted: int, tmp_path: Path) -> None:
    """Rounded up; no file, no quota or another kind of file: those of the affinity."""
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert cores.num_cores() == wanted


def test_without_affinities_they_are_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert cores.num_cores() == 3
