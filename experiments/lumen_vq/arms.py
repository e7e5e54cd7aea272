"""What is compared: how a reader learns, and what it is left of the memories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from experiments.lumen_vq.memories import OtherFamily, ProductCodes

START, LUMEN, UNCOMPRESSED = "FiD, before the cut", "LUMEN 1/3", "uncompressed"
LIVE_FRACTION = "1/3"

Learner = Literal["all", "reader"]
"""What a stage of training changes: everything, or everything but the memory encoder."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of the table.

    Args:
        start: the arm whose reader it starts from; None: from nothing.
        learns: on the way to its own; None: it reads as that arm does (post hoc).
        stage: of the size, how long it learns: "adapt", "joint", or "both" one after the other.
        live_fraction: of the reader.
        rule: how memories are compressed; None: not.
        share_kept: of each passage, its first tokens: LUMEN-Light.
        has_passages: whether it gets any.
        decides: whether the claim cannot be judged without it: part of the short run.
    """

    start: str | None
    learns: Learner | None = None
    stage: str = "joint"
    live_fraction: str = LIVE_FRACTION
    rule: ProductCodes | OtherFamily | None = None
    share_kept: float = 1.0
    has_passages: bool = True
    decides: bool = True


def _readers(live_fractions: tuple[str, ...]) -> dict[str, Arm]:
    cut = {
        f"LUMEN {fraction}": Arm(START, "reader", "adapt", fraction, decides=False)
        for fraction in live_fractions
    }
    return {
        START: Arm(None, "all", live_fraction="1"),
        **cut,
        "FiD": Arm(START, "all", "both", live_fraction="1", decides=False),
        UNCOMPRESSED: Arm(LUMEN, "all"),
        "uncompressed, encoder frozen": Arm(LUMEN, "reader", decides=False),
        "no passages": Arm(UNCOMPRESSED, has_passages=False),
    }


def _compressed() -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for rate in (8, 16, 32, 64):
        plain, token = ProductCodes(rate), ProductCodes(rate, has_predictor=True)
        for kind, rule in (("", plain), ("token, ", token)):
            arms[f"{kind}post hoc {rate}x"] = Arm(UNCOMPRESSED, rule=rule)
            arms[f"{kind}joint {rate}x"] = Arm(LUMEN, "all", rule=rule)
    for rate in (16, 64):
        plain = ProductCodes(rate)
        named = {
            "encoder frozen": Arm(LUMEN, "reader", rule=plain, decides=rate == 16),
            "from FiD": Arm(START, "all", "both", rule=plain, decides=False),
            "K=4096": Arm(LUMEN, "all", rule=replace(plain, codebook_size=4096), decides=False),
            "commitment 0.25": Arm(
                LUMEN, "all", rule=replace(plain, commitment=0.25), decides=False
            ),
            "no resets": Arm(LUMEN, "all", rule=replace(plain, resets=False), decides=False),
        }
        arms |= {f"joint {rate}x, {name}": arm for name, arm in named.items()}
        arms[f"post hoc {rate}x, K=4096"] = Arm(
            UNCOMPRESSED, rule=replace(plain, codebook_size=4096), decides=False
        )
    return arms


def _others() -> dict[str, Arm]:
    families = [("int8", 0), ("int4", 0), ("pca-int8", 8), ("pca-int8", 16), ("pca-int8", 32)]
    return {
        **{
            f"{name} {rate}x" if rate else name: Arm(
                UNCOMPRESSED, rule=OtherFamily(name, rate), decides=name == "int4"
            )
            for name, rate in families
        },
        "light 2x": Arm(LUMEN, "all", share_kept=1 / 2, decides=False),
        "light 4x": Arm(LUMEN, "all", share_kept=1 / 4, decides=False),
    }


def arms(live_fractions: tuple[str, ...]) -> dict[str, Arm]:
    """Return all arms; each comes after the one that it starts from."""
    return {**_readers(live_fractions), **_compressed(), **_others()}


def keys(
    all_arms: dict[str, Arm], num_seeds: int, *, only_deciding: bool
) -> list[dict[str, str | int]]:
    """Return the keys of the runs, in an order in which what others start from comes first."""
    return [
        {"arm": name, "seed": seed}
        for name, arm in all_arms.items()
        if arm.decides or not only_deciding
        for seed in range(num_seeds)
    ]
