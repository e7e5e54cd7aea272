"""What the options of all training runs have in common: ranges, and how one is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from memstore.errors import ConfigError

OPTIMIZERS = ("adafactor", "adamw")
PRECISIONS = ("auto", "float32", "bfloat16")


def check_options(
    options: Any,
    *,
    choices: Mapping[str, Sequence[str]],
    counts: Sequence[str],
    positives: Sequence[str],
) -> None:
    """Refuse options that are out of range.

    Args:
        options: with a field for each name below, and a `seed`.
        choices: by name, what a field may be.
        counts: fields that are 1 or more.
        positives: fields that are finite and above zero, or None.

    Raises:
        ConfigError: with the option, what it is and what was wanted.
    """
    for name, allowed in choices.items():
        if getattr(options, name) not in allowed:
            raise refused(name, getattr(options, name), " or ".join(map(repr, allowed)))
    for name in counts:
        if getattr(options, name) < 1:
            raise refused(name, getattr(options, name), "1 or more")
    for name in positives:
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise refused(name, value, "more than 0")
    if options.seed < 0:
        raise refused("seed", options.seed, "0 or more")


def check_shared(batch_size: int, num_workers: int) -> None:
    """Refuse a batch that workers cannot share evenly.

    Raises:
        ConfigError: with both numbers.
    """
    if batch_size % num_workers:
        raise refused(
            "batch_size", batch_size, f"a multiple of {num_workers}, the workers that share it"
        )


def refused(name: str, got: object, wanted: str) -> ConfigError:
    """Return the error that says which option is wrong, and how."""
    return ConfigError(f"training option {name}: got {got!r}, wanted {wanted}", option=name)
