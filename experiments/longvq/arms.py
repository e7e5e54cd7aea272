"""What is compared: which parts of LongVQ a model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import torch

from memstore.models.longvq import LongVQ
from memstore.models.longvq_config import (
    Attention,
    KeyGradient,
    LongVQConfig,
    StateSpace,
    Weighting,
)

TaskName = Literal["listops", "recall", "copying", "text", "reviews"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)

FLOORS = "floors"
"""The key of the row that holds what rules reach without a model."""
LONGVQ, SPACE, BAND, FULL = "LongVQ", "SSM only", "SSM + band only", "full attention + SSM"
FROZEN, NO_SPACE, FEW, TWO = "frozen random codebook", "VQ without SSM", "S=16", "S=2"
_NUM_CODES = (64, 128, 256, 512)
_SHORT: tuple[TaskName, ...] = ("recall", "copying")


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of a table.

    Args:
        changes: of the configuration, against LongVQ's.
        decides: tasks on which the claims cannot be judged without it.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    decides: tuple[TaskName, ...] = ()


def arms(num_codes: int) -> dict[str, Arm]:
    """Return all arms.

    Args:
        num_codes: S of LongVQ; other numbers are arms of their own.
    """
    return {
        LONGVQ: Arm({}, TASKS),
        BAND: Arm({"attention": Attention.BAND}, TASKS),
        SPACE: Arm({"attention": Attention.NONE}, TASKS),
        FULL: Arm({"attention": Attention.FULL}, TASKS),
        TWO: Arm({"num_codes": 2}, (*_SHORT, "text")),
        FROZEN: Arm({"learns_codebook": False}, _SHORT),
        NO_SPACE: Arm({"state_space": StateSpace.NONE}, _SHORT),
        FEW: Arm({"num_codes": 16}, ("recall", "text")),
        # On two cores 16 numbers of a value become one there, as with the library's defaults.
        "moments of width 2": Arm(
            {"key_gradient": KeyGradient.MOMENTS, "moment_width": 2}, ("recall",)
        ),
        "VQ without band bias": Arm({"has_bias": False}),
        "Laplace": Arm({"weighting": Weighting.LAPLACE}),
        "S4D instead of EMA": Arm({"state_space": StateSpace.S4D}),
        "S4D only": Arm({"state_space": StateSpace.S4D, "attention": Attention.NONE}),
        **{f"S={each}": Arm({"num_codes": each}) for each in _NUM_CODES if each != num_codes},
    }


def keys(
    tasks: Sequence[TaskName],
    all_arms: Mapping[str, Arm],
    num_seeds: int,
    *,
    only_deciding: bool,
) -> list[dict[str, str | int]]:
    """Return the keys of the runs; the floors of a task come before its arms."""
    found: list[dict[str, str | int]] = []
    for task in tasks:
        chosen = [
            name for name, arm in all_arms.items() if task in arm.decides or not only_deciding
        ]
        seeds = range(num_seeds)
        found += [{"task": task, "arm": FLOORS, "seed": 0}] if chosen else []
        found += [{"task": task, "arm": name, "seed": seed} for name in chosen for seed in seeds]
    return found


@lru_cache
def make_config(name: str, base: LongVQConfig) -> LongVQConfig:
    """Return the model of an arm, with about as many weights as LongVQ has.

    Feed-forward layers are widened to make up for the parts that an arm lacks. Codebooks are not
    counted: they follow the keys, and no gradient teaches them.

    Args:
        name: of the arm.
        base: LongVQ.
    """
    config = replace(base, **arms(base.num_codes)[name].changes)
    missing = count_weights(base) - count_weights(config)
    of_one = (2 * base.dim + 1) * base.num_layers
    return replace(config, ffn_dim=max(1, config.ffn_dim + round(missing / of_one)))


def count_weights(config: LongVQConfig) -> int:
    """Return how many weights a model has."""
    with torch.device("meta"):
        return sum(each.numel() for each in LongVQ(config).parameters())
