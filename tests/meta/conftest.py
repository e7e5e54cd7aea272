"""The project's own files, as the tests here read them."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = "memstore", "server", "encoder_jobs"
GENERATED = ROOT / "memstore" / "v1"


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def project_files() -> list[Path]:
    """Every file that git has or would take, generated code left out."""
    git = shutil.which("git") or pytest.skip("git is not installed")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip(f"this is no git checkout: {listed.stderr.strip()}")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return sorted(file for file in files if file.is_file() and GENERATED not in file.parents)


@pytest.fixture(scope="session")
def modules(project_files: list[Path]) -> dict[str, ast.Module]:
    """Every Python file, parsed, by its path from the root."""
    return {
        str(file.relative_to(ROOT)): ast.parse(file.read_text())
        for file in project_files
        if file.suffix == ".py"
    }


@pytest.fixture(scope="session")
def shipped(modules: dict[str, ast.Module]) -> dict[str, ast.Module]:
    """The modules of the three packages that the wheel holds."""
    return {name: module for name, module in modules.items() if name.partition("/")[0] in PACKAGES}
