"""Looking at processes and ending them, for tests that do so on purpose. Linux only."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def command_of(pid: int) -> str:
    """Return a process's command line, or the title that it gave itself; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children, their children, and so on."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended since
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def end(pids: list[int]) -> None:
    """Kill these processes outright; those that are gone already do not matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
