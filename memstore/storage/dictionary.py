"""The zstd dictionary that texts of one job share.

It is trained once on a sample, stored by digest, and named by each shard. Short texts compress
about twice as well with it. A sample too small to learn from gives no dictionary, which is fine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import zstandard

_DICTIONARY_BYTES = 64 * 1024
_MIN_SAMPLES, _MIN_BYTES = 256, 16 * _DICTIONARY_BYTES


def train_dictionary(texts: Sequence[str]) -> bytes:
    """Return a dictionary for texts like these; empty if the sample is too small to learn one."""
    # Text that UTF-8 cannot hold is refused where it is stored; a sample need not be exact.
    samples: list[bytes | bytearray | memoryview] = [
        text.encode(errors="replace") for text in texts if text
    ]
    if len(samples) < _MIN_SAMPLES or sum(map(len, samples)) < _MIN_BYTES:
        return b""
    return bytes(zstandard.train_dictionary(_DICTIONARY_BYTES, samples, threads=0).as_bytes())


def dictionary_key(digest: str) -> str:
    """Object key of a dictionary below its collection."""
    return f"dicts/{digest}.zstd"


def dictionary_digest(dictionary: bytes) -> str:
    """Return the name of a dictionary; empty for none."""
    return hashlib.sha256(dictionary).hexdigest() if dictionary else ""
