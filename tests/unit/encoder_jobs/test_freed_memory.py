"""What training frees stays with the process until it ends."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from encoder_jobs.freed_memory import freed_memory_kept

_SCRIPT = """
from contextlib import nullcontext
import numpy as np
from encoder_jobs.freed_memory import freed_memory_kept

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS:"))

def use():
    before = resident()
    np.ones(256 << 20, dtype=np.uint8)
    return resident() - before

found = [use()]
with freed_memory_kept():
    before = resident()
    found += [use(), use()]
found += [resident() - before, use()]
print(*found)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_blocks_are_kept_within_and_given_back_after() -> None:
    """256 MiB stay after they were freed, serve again, and go at the end."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True
    )
    default, kept, again, left, after = (int(each) for each in done.stdout.split())
    assert abs(default) < 32
    assert kept > 224
    assert abs(again) < 32  # the same block
    assert abs(left) < 32
    assert abs(after) < 32


def test_an_error_within_is_raised() -> None:
    """It is not swallowed."""
    with pytest.raises(RuntimeError, match="loss"), freed_memory_kept():
        raise RuntimeError("loss")
