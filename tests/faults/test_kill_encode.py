"""The encode command killed with SIGKILL at random moments, then run again: nothing is lost,
nothing is there twice, and the collection is the one that an undisturbed run makes.

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
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import memstore
from memstore.storage import Collection
from tests.processes import command_of, descendants, end
from tests.tiny import make_records, published, save_encoder, write_jsonl

WINDOW_TOKENS, PARTITION_BYTES = 32, 1200
_POLL_S, _LONGEST_DELAY_S = 0.002, 0.05


@dataclass(frozen=True)
class Setting:
    """What all runs have in common, and what an undisturbed one made of it: what is published, and
    how many files there are.
    """

    corpus: Path
    encoder: Path
    store: Path
    reference: Mapping[str, str]
    num_files: int

    def start(self, store: Path, ray: str) -> subprocess.Popen[str]:
        """Start the encode command."""
        command = [sys.executable, "-m", "memstore", "encode", str(self.corpus), "--ray", ray]
        command += ["--store", str(store), "--encoder", str(self.encoder)]
        command += [
            "--window-tokens",
            str(WINDOW_TOKENS),
            "--partition-bytes",
            str(PARTITION_BYTES),
        ]
        return subprocess.Popen(
            command,
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
    store = folder / "store"
    Setting(corpus, encoder, store, {}, 0).run_again(store, "none")
    return Setting(corpus, encoder, store, published(store), _num_files(store))


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
    print(  # noqa: T201  pytest shows it with a failure, and always with -s
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
def test_a_killed_run_is_finished_by_the_next(setting: Setting, tmp_path: Path, seed: int) -> None:
    """SIGKILL of the only process; the same command again makes the undisturbed collection."""
    _kill_and_resume(setting, tmp_path, ray="none", victim="driver", seed=seed)


@pytest.mark.ray
def test_a_killed_driver_of_a_local_ray_is_finished_by_the_next(
    setting: Setting, tmp_path: Path
) -> None:
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
) -> None:
    """Drivers and workers; a job whose worker was killed ends well by itself."""
    _kill_and_resume(setting, tmp_path, ray=ray, victim=victim, seed=seed)


def test_the_comparison_sees_shards_that_are_not_named_after_their_input(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: with names drawn at random, as a plain sink has them, the same passages
    with the same codes do not pass.
    """
    put_shard = Collection.put_shard
    monkeypatch.setattr(
        Collection,
        "put_shard",
        lambda self, content, name: put_shard(self, content, uuid.uuid4().hex),
    )
    memstore.encode(
        str(setting.corpus),
        store=tmp_path,
        encoder=str(setting.encoder),
        window_tokens=WINDOW_TOKENS,
        partition_bytes=PARTITION_BYTES,
        quiet=True,
    )

    differing = set(published(tmp_path).items()) ^ set(setting.reference.items())
    assert differing
    assert all(name.startswith("shard ") for name, _ in differing)


def test_the_comparison_sees_a_passage_that_is_lost(setting: Setting, tmp_path: Path) -> None:
    """Negative control: one passage less does not pass."""
    store = Path(shutil.copytree(setting.store, tmp_path / "store"))
    memstore.open_store(store).delete(passage_ids=["doc-7#0"])

    lost = set(setting.reference.items()) - set(published(store).items())
    assert [name for name, _ in lost] == ["doc-7#0"]
