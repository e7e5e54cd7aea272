"""What is compared: what a model keeps of a text, and what it is left of it at the test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import torch

from experiments.melodi.ablations import Ablation
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import Architecture, MelodiConfig

Task = Literal["language", "recall"]

TRANSFORMER_XL, BLOCK_RECURRENT, MEMORIZING = "Transformer-XL", "Block-Recurrent", "Memorizing"
_SHORT, _LONG = Fraction(1, 4), Fraction(1, 8)
RATES = (4, 8, 16)
"""How many times smaller the queue is than in bfloat16."""


def melodi_name(short: Fraction, long: Fraction) -> str:
    """Return the name of the arm that keeps S and L as shares of the window."""
    return f"MELODI S={_share(short)} L={_share(long)}"


def _share(share: Fraction) -> str:
    if not share:
        return "0"
    return f"{share.numerator if share.numerator > 1 else ''}W/{share.denominator}"


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of a table.

    Args:
        architecture: of the model.
        short: S, and U unless it is 0, as a share of the window (MELODI).
        long: L, as a share of the window (MELODI).
        has_branching: of the summary (MELODI).
        long_layer: where the queue is.
        start: the arm whose model it takes; None: it learns from nothing.
        learns: it learns on from there; else it is only tested.
        rate: the queue is compressed so many times; 1: not.
        is_zeroed: the queue is emptied before every window of the test.
        ablation: what is taken from it in training.
        decides: the claims cannot be judged without it: part of the short run.
    """

    architecture: Architecture = Architecture.MELODI
    short: Fraction = _SHORT
    long: Fraction = _LONG
    has_branching: bool = True
    long_layer: Literal["first", "middle", "last"] = "middle"
    start: str | None = None
    learns: bool = True
    rate: int = 1
    is_zeroed: bool = False
    ablation: Ablation | None = None
    decides: bool = True


MELODI = melodi_name(_SHORT, _LONG)
SMALL = melodi_name(Fraction(3, 8), Fraction(1, 16))
"""Less memory than Transformer-XL, as the paper's S192 + L32."""
NO_QUEUE = melodi_name(_SHORT, Fraction(0))
UNBRANCHED, ZEROED, LONGER = "no branching", "queue zeroed", "trained on"
_BASELINES = {
    TRANSFORMER_XL: Architecture.TRANSFORMER_XL,
    BLOCK_RECURRENT: Architecture.BLOCK_RECURRENT,
    MEMORIZING: Architecture.MEMORIZING,
}
_GRID = [
    (short, long)
    for short in (Fraction(0), Fraction(1, 16), Fraction(1, 4))
    for long in (Fraction(0), Fraction(1, 32), Fraction(1, 8))
]


def post_hoc(rate: int) -> str:
    """Return the name of the arm whose queue was compressed after training."""
    return f"queue {rate}x, post hoc"


def joint(rate: int) -> str:
    """Return the name of the arm that learnt on with a compressed queue."""
    return f"queue {rate}x, joint"


def arms(task: Task) -> dict[str, Arm]:
    """Return all arms of a task; each comes after the one that it starts from."""
    trained = {name: Arm(architecture) for name, architecture in _BASELINES.items()}
    trained |= {MELODI: Arm(), NO_QUEUE: Arm(long=Fraction(0))}
    tested = {ZEROED: Arm(start=MELODI, learns=False, is_zeroed=True)}
    tested |= {post_hoc(rate): Arm(start=MELODI, learns=False, rate=rate) for rate in RATES}
    if task == "recall":
        return trained | tested
    trained[SMALL] = Arm(short=Fraction(3, 8), long=Fraction(1, 16), decides=False)
    trained[UNBRANCHED] = Arm(has_branching=False, decides=False)
    on = {LONGER: Arm(start=MELODI)}
    on |= {joint(rate): Arm(start=MELODI, rate=rate, decides=rate > 4) for rate in RATES}
    large = Fraction(3, 8), Fraction(3, 16)
    more = {
        melodi_name(*each): Arm(short=each[0], long=each[1], decides=False)
        for each in [*_GRID, large]
        if melodi_name(*each) not in trained
    }
    for place in ("first", "last"):
        more[f"queue in the {place} layer"] = Arm(long_layer=place, decides=False)
    more["gate at a half"] = Arm(ablation="gate", decides=False)
    more["gradients cut between windows"] = Arm(ablation="gradients", decides=False)
    return trained | tested | on | more


def keys(
    tasks: tuple[Task, ...], num_seeds: int, *, only_deciding: bool
) -> list[dict[str, str | int]]:
    """Return the keys of the runs, in an order in which what others start from comes first."""
    return [
        {"task": task, "arm": name, "seed": seed}
        for task in tasks
        for name, arm in arms(task).items()
        if arm.decides or not only_deciding
        for seed in range(num_seeds)
    ]


@lru_cache
def make_config(arm: Arm, base: MelodiConfig) -> MelodiConfig:
    """Return the model of an arm, with as many weights as Transformer-XL has.

    Feed-forward layers are widened or narrowed by fours to make up for the mixers, the gate and the
    projections that the others lack.

    Args:
        arm: that learns from nothing, or the one it starts from.
        base: a size's Transformer-XL with S, L and branching not looked at.
    """
    num_short, num_long = (int(share * base.window) for share in (arm.short, arm.long))
    layers = {"first": 0, "middle": None, "last": base.num_layers - 1}
    config = replace(
        base,
        architecture=arm.architecture,
        num_short_tokens=num_short,
        num_summary_tokens=num_short or (int(_SHORT * base.window) if num_long else 0),
        num_long_tokens=num_long,
        has_branching=arm.has_branching,
        long_layer=layers[arm.long_layer],
    )
    wanted = count_weights(replace(base, architecture=Architecture.TRANSFORMER_XL))
    missing = wanted - count_weights(config)
    step = 4 * 2 * base.dim * base.num_layers
    return replace(config, ffn_dim=config.ffn_dim + 4 * round(missing / step))


def count_weights(config: MelodiConfig) -> int:
    """Return how many weights a model has."""
    with torch.device("meta"):
        return sum(each.numel() for each in Melodi(config).parameters())
