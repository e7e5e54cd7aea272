"""A server killed with SIGKILL while clients append: nothing acknowledged is lost, and what was on
its way is there as a whole or not at all.

A moment is a number of answers and a few milliseconds more, drawn from a seed that the test prints.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from memstore import Client
from memstore.errors import DeadlineError, UnavailableError
from tests.faults.session_server import serve
from tests.tiny_sessions import make_text, save_model

# Servers are forked from a process that has imported what they need: that takes them seconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["tests.faults.session_server", "memstore.sessions.language", "torch._dynamo"]
)
NAMES = "a", "b", "c"
_MOST_ANSWERS, _LONGEST_DELAY_S = 12, 0.03


@dataclass
class Written:
    """What a client knows of a session.

    Attributes:
        version: of the last answer.
        text: of all that was answered.
        pending: what was sent and not answered; empty: nothing.
    """

    version: int = 1
    text: str = ""
    pending: str = ""


@dataclass
class Sessions:
    """Sessions of a folder, served by one process after another."""

    folder: Path
    model: Path
    written: dict[str, Written] = field(default_factory=lambda: {name: Written() for name in NAMES})

    @contextlib.contextmanager
    def serve(self) -> Iterator[tuple[BaseProcess, Client]]:
        """Start a server and connect to it; it is killed in the end."""
        receiver, sender = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=serve, args=(self.folder, self.model, sender))
        process.start()
        sender.close()
        try:
            with Client(receiver.recv(), timeout_s=60, cache_dir=self.folder / "codecs") as client:
                yield process, client
        finally:
            process.kill()
            process.join()

    def append_until_killed(self, process: BaseProcess, client: Client, rng: random.Random) -> int:
        """Append to all sessions in turn until the server is gone; return the number of answers."""
        num_answers, delay_s = rng.randrange(1, _MOST_ANSWERS), rng.uniform(0, _LONGEST_DELAY_S)
        is_time = threading.Event()

        def kill() -> None:
            is_time.wait()
            process.join(delay_s)
            process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        count = 0
        try:
            while True:
                known = self.written[NAMES[count % len(NAMES)]]
                known.pending = make_text(rng.randint(1, 20), seed=rng.randrange(1000))
                info = client.sessions.append(
                    NAMES[count % len(NAMES)], known.pending, expected_version=known.version
                )
                known.version, known.text = info.version, known.text + known.pending
                known.pending = ""
                count += 1
                if count >= num_answers:
                    is_time.set()
        except (UnavailableError, DeadlineError):
            killer.join()
        return count

    def check(self, client: Client) -> int:
        """Compare what the sessions hold with what was answered; return the number of appends that
        are there unanswered.
        """
        num_unanswered = 0
        for name, known in self.written.items():
            text = "".join(window.text for window in client.sessions.windows(name))
            version = client.sessions.info(name).version
            if known.pending and version == known.version + 1:
                known.version, known.text = version, known.text + known.pending
                num_unanswered += 1
            known.pending = ""
            assert (version, text) == (known.version, known.text)
        return num_unanswered


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose queue holds all windows of these tests, so that all text can be read."""
    return save_model(tmp_path_factory.mktemp("kill") / "model", queue_windows=4096)


@pytest.fixture
def sessions(model: Path, tmp_path: Path) -> Sessions:
    """Three empty sessions, and an empty store beside them."""
    (tmp_path / "store").mkdir()
    return Sessions(tmp_path, model)


def _kill_loop(sessions: Sessions, num_kills: int, seed: int) -> None:
    rng = random.Random(seed)
    report = []
    for number in range(num_kills + 1):
        with sessions.serve() as (process, client):
            if not number:
                for name in NAMES:
                    client.sessions.create(name)
            report.append(f"{sessions.check(client)} unanswered")
            if number < num_kills:
                report.append(f"{sessions.append_until_killed(process, client, rng)} answers")
    print(f"seed {seed}: {', '.join(report)}")  # noqa: T201  pytest shows it with a failure


def test_a_killed_server_loses_nothing_it_answered(sessions: Sessions) -> None:
    """Three kills of three servers on the same sessions."""
    _kill_loop(sessions, 3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_hundred_kills_lose_nothing(sessions: Sessions, seed: int) -> None:
    """Ten at a time."""
    _kill_loop(sessions, 10, seed)


def test_the_comparison_sees_an_append_that_is_lost(sessions: Sessions) -> None:
    """Negative control: an answer that is not in the session fails, and so does half a text."""
    with sessions.serve() as (_, client):
        for name in NAMES:
            client.sessions.create(name)
        client.sessions.append("a", "sea ship ")
        sessions.written["a"] = Written(version=2, text="sea ship ")
        assert sessions.check(client) == 0
        for lie in (Written(3, "sea ship salt "), Written(2, "sea "), Written(2, "sea ship salt ")):
            sessions.written["a"] = lie
            with pytest.raises(AssertionError):
                sessions.check(client)
