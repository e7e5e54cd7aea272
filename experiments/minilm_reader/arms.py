"""What is compared: codecs at a rate, and what the reader does about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NUM_FOLDS = 3
RAW = "raw"
AS_TRAINED, ADAPTED, JOINT = "as trained", "adapted", "joint"
RAW_BYTES = 768  # of 384 dimensions in bfloat16
RATES = (8, 16, 32, 64)

_PLAIN: dict[str, Any] = {}
_PCA = {"rotation": "pca"}
_TOKEN = {"rotation": "pca", "predictor": "token"}
_CONTEXT = {"rotation": "pca", "predictor": "context"}
# Codes of 8 bits: the most that divide 384 and, with two bytes for the token id, fit the rate.
_NUM_CODES = {8: 96, 16: 48, 32: 24, 64: 12}
_NUM_CODES_BESIDE_ID = {8: 64, 16: 32, 32: 16, 64: 8}


@dataclass(frozen=True, slots=True)
class Arm:
    """A codec; its rate is at least the one in its name.

    Attributes:
        stages: options of `ProductCodec.train`.
    """

    name: str
    family: str
    rate: int
    num_subspaces: int
    stages: dict[str, Any]


def _arms() -> dict[str, Arm]:
    arms = [
        Arm(f"{family} {rate}x", family, rate, codes[rate], stages)
        for family, codes, stages in (
            ("plain", _NUM_CODES, _PLAIN),
            ("rotated", _NUM_CODES, _PCA),
            ("token", _NUM_CODES_BESIDE_ID, _TOKEN),
            ("context", _NUM_CODES_BESIDE_ID, _CONTEXT),
        )
        for rate in RATES
    ]
    return {arm.name: arm for arm in arms}


ARMS = _arms()
ADAPTED_FAMILIES = ("plain", "rotated", "token")
JOINT_ARMS = ("plain 16x", "plain 64x", "token 16x", "token 64x")


def keys(num_seeds: int) -> list[dict[str, str | int]]:
    """Return the keys of all runs: what needs no training of its own first, joint training last."""
    modes = {
        AS_TRAINED: (RAW, *ARMS),
        ADAPTED: (RAW, *(arm.name for arm in ARMS.values() if arm.family in ADAPTED_FAMILIES)),
        JOINT: (RAW, *JOINT_ARMS),
    }
    found: list[dict[str, str | int]] = []
    for seed in range(num_seeds):
        for mode, names in modes.items():
            found += [
                {"task": "reading", "mode": mode, "arm": name, "fold": fold, "seed": seed}
                for fold in range(NUM_FOLDS)
                for name in names
            ]
            if mode == AS_TRAINED:
                found += [{"task": "ranking", "arm": name, "seed": seed} for name in names]
    return found
