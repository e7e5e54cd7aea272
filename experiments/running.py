"""Runs of an experiment in this process or in several, each with a workshop that is opened once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch


class Workshop(Protocol):
    """What the runs of a process share."""

    def run(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Return the rest of a key's row."""
        ...


@dataclass(frozen=True)
class Runner:
    """Runs keys, in whatever process.

    Args:
        open_workshop: called once in each process; not of a `__main__`, which others cannot import.
        arguments: what it is called with.
        num_workers: processes; of several, each computes with one thread.
    """

    open_workshop: Callable[..., Workshop]
    arguments: tuple[Hashable, ...]
    num_workers: int

    def __call__(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Return the rest of a key's row."""
        if self.num_workers > 1:
            torch.set_num_threads(1)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
        return _opened(self.open_workshop, self.arguments).run(key)


@lru_cache(maxsize=1)
def _opened(open_workshop: Callable[..., Workshop], arguments: tuple[Hashable, ...]) -> Workshop:
    return open_workshop(*arguments)
