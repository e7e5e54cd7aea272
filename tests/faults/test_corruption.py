"""Damaged collections: every read is refused or right, none silently wrong, and no reader dies."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "damaged_reads.py"


def _battery(folder: Path, seed: int, count: int, *flags: str) -> list[dict[str, Any]]:
    """Run the reader in a process of its own; return a report for each damaged copy."""
    process = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(seed), str(count), *flags],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0, f"seed {seed}: {lines[-1:]}: {process.stderr[-3000:]}"
    return [line for line in lines if "changed" in line]


@pytest.mark.parametrize(
    ("seed", "count"),
    [
        pytest.param(1, 44, id="44"),
        pytest.param(
            random.randrange(1 << 32),
            220,
            id="220",
            marks=[pytest.mark.slow, pytest.mark.timeout(1800)],
        ),
    ],
)
def test_damage_is_refused_or_harmless(tmp_path: Path, seed: int, count: int) -> None:
    """Bits flipped in any file, cuts, zeroed pages, lost, swapped and foreign objects."""
    reports = _battery(tmp_path, seed, count)

    assert len(reports) == count
    assert [report for report in reports if report["wrong"]] == [], f"seed {seed}"
    missed = [r for r in reports if r["changed"] and not r["found"] and not r["may_be_missed"]]
    assert missed == [], f"seed {seed}: not found by verify"
    assert sum(report["num_refused"] > 0 for report in reports) > count / 3


def test_the_battery_notices_a_reader_that_checks_nothing(tmp_path: Path) -> None:
    """With the check of the codes taken out, damaged codes are read as if they were right."""
    reports = _battery(tmp_path, 1, 4, "--blind")

    assert [len(report["wrong"]) > 0 for report in reports] == [True] * 4
    assert all(report["found"] for report in reports)
