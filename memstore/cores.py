"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")  # version 2: what a container may take


def num_cores() -> int:
    """Return the cores of this process's affinity, or what a container's quota comes to.

    More threads than that are slower than as many: they are halted while others wait for them.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(cores, _quota() or cores)


@cache
def _quota() -> int | None:
    try:
        microseconds, period = (_CGROUP / "cpu.max").read_text().split()
        return math.ceil(int(microseconds) / int(period))
    except (OSError, ValueError):  # no such file, or no quota: "max 100000"
        return None
