"""The encode command killed with SIGKILL at random moments, then run again: nothing is lost, nothing
is there twice, and the collection is the one that an undisturbed run makes.

A moment is a number of files in the store and a few milliseconds more, drawn from a seed; each test
prints both, and what it had found when it killed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from encoder_jobs.spec import JobFolder, list_jobs
from memstore import open_store
from memstore.storage import ShardContent
from memstore.types import Passage
from tests.processes import command_of, descendants, end
from tests.tiny import make_records, published, save_encoder, write_jsonl

_POLL_S, _LONGEST_DELAY_S = 0.002, 0.05


@dataclass(frozen=True)
class Setting:
    """What all runs have in common, and what an undisturbed one made of it."""

    command: list[str]
    reference: Mapping[str, str]
    num_files: int

    def start(self, store: Path, ray: str) -> subprocess.Popen[str]:
        """Start the encode command."""
        return subprocess.Popen(
            [*self.command, "--store", str(store), "--ray", ray],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # idle threads leave the other alone
        )

    def run_again(self, store: Path, ray: str) -> None:
        """Run the same command to its end, which must be a good one."""
        done = self.start(store, ray)
        _, errors = done.communicate()
        assert done.returncode == 0, errors


def _num_files(store: Path) -> int:
    """Count finished files; a job may remove unfinished ones while they are listed."""
    names = [name for _, _, files in os.walk(store) for name in files]
    return sum(not name.startswith(".tmp-") for name in names)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """An encoder, a corpus of a dozen partitions, and the undisturbed run."""
    folder = tmp_path_factory.mktemp("kill")
    encoder = save_encoder(folder / "encoder")
    corpus = write_jsonl(folder / "corpus.jsonl", make_records(30))
    command = [sys.executable, "-m", "memstore", "encode", str(corpus), "--encoder", str(encoder)]
    command += ["--window-tokens", "32", "--partition-bytes", "1200"]
    undisturbed = Setting(command, {}, 0)
    undisturbed.run_again(folder / "store", "none")
    return Setting(command, published(folder / "store"), _num_files(folder / "store"))


def _run_until(process: subprocess.Popen[str], is_time: Callable[[], bool]) -> None:
    """Return when it is time; a process that ends before that fails the test."""
    while not is_time():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            pytest.fail(f"the command ended before it was killed: {process.communicate()[1]}")


def _encoders(process: subprocess.Popen[str]) -> list[int]:
    """The Ray workers of a job that prepare it or encode, by process id."""
    names = ("EncodeRow", "prepare_steps", "tokenize_row")
    return [
        pid
        for pid in descendants(process.pid)
        if command_of(pid).startswith("ray::") and any(name in command_of(pid) for name in names)
    ]


def _state(store: Path) -> str:
    """What a killed run left, in words."""
    parts = []
    for folder in ("jobs", "codecs", "shards", "versions"):
        count = sum(path.is_file() for path in store.glob(f"default/{folder}/**/*"))
        parts.append(f"{count} files in {folder}")
    temps = len(list(store.glob("**/.tmp-*")))
    return ", ".join([*parts, f"{temps} unfinished"])


@contextlib.contextmanager
def _leaving_none_behind(process: subprocess.Popen[str]) -> Iterator[None]:
    """End what is left of a command and its Ray when the test is over."""
    seen: set[int] = set()
    try:
        yield
        seen.update(descendants(process.pid))
    finally:
        process.kill()
        process.communicate()
        end([pid for pid in seen if "ray" in command_of(pid)])


def _kill_and_resume(setting: Setting, store: Path, *, ray: str, victim: str, seed: int) -> None:
    rng = random.Random(seed)
    num_files = rng.randrange(1, setting.num_files - 2)
    delay_s = rng.uniform(0, _LONGEST_DELAY_S)
    process = setting.start(store, ray)
    killed: list[int] = []

    def is_time() -> bool:
        killed[:] = [process.pid] if victim == "driver" else _encoders(process)
        return bool(killed) and _num_files(store) >= num_files

    _run_until(process, is_time)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay_s)
    orphans = descendants(process.pid)
    end([rng.choice(killed)])
    if victim == "driver":
        assert process.wait() == -signal.SIGKILL
    print(
        f"seed {seed}: {victim} of --ray {ray} killed at {num_files} files and "
        f"{1000 * delay_s:.0f} ms; there were {_state(store)}"
    )
    if victim == "worker":
        assert process.wait() == 0, process.communicate()[1]
    process.communicate()
    try:
        setting.run_again(store, ray)
    finally:
        end([pid for pid in orphans if "ray" in command_of(pid)])
    assert published(store) == setting.reference


@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_run_is_finished_by_the_next(setting: Setting, tmp_path: Path, seed: int):
    """SIGKILL of the only process; the same command again makes the undisturbed collection."""
    _kill_and_resume(setting, tmp_path, ray="none", victim="driver", seed=seed)


@pytest.mark.ray
def test_a_killed_driver_of_a_local_ray_is_finished_by_the_next(setting: Setting, tmp_path: Path):
    """The killed driver's workers may still be writing when the next run begins."""
    _kill_and_resume(setting, tmp_path, ray="local", victim="driver", seed=3)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("ray", "victim", "seed"),
    [
        *(("none", "driver", 100 + number) for number in range(8)),
        *(("local", "driver", 200 + number) for number in range(6)),
        *(("local", "worker", 300 + number) for number in range(6)),
    ],
)
def test_twenty_kills_lose_nothing(
    setting: Setting, tmp_path: Path, ray: str, victim: str, seed: int
):
    """Drivers and workers; a job whose worker was killed ends well by itself."""
    _kill_and_resume(setting, tmp_path, ray=ray, victim=victim, seed=seed)
