"""Who imports whom, and what that costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = "torch", "transformers", "faiss", "numba", "grpc", "ray", "fastapi", "pyarrow"


@pytest.mark.parametrize(
    "program",
    ["import memstore", "from memstore.cli.main import run; run(['--help'])"],
    ids=["import memstore", "memstore --help"],
)
def test_the_light_paths_import_nothing_heavy(program: str) -> None:
    """Whoever only looks waits for no compiler, model library or cluster."""
    report = f"import sys; print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{report}"], capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_import_contracts_hold(root: Path) -> None:
    """The layers of pyproject.toml: data flows right, imports point left."""
    linter = Path(sys.executable).with_name("lint-imports")

    done = subprocess.run(
        [linter, "--no-logo", "--no-cache"], cwd=root, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
