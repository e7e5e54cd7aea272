"""What is compared: codecs at a rate, and what the reader does about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NUM_FOLDS = 3
RAW = "raw"
GUESSED = "guessed"
AS_TRAINED, ADAPTED, CODEBOOK, JOINT = "as trained", "adapted", "codebook", "joint"
# Codes of 16 bits, as the paper has them; it takes as long to train as all others together.
MEMORY_VQ = "MEMORY-VQ 16x"
RAW_BYTES = 768  # of 384 dimensions in bfloat16
RATES = (8, 16, 32, 64)

_PLAIN: dict[str, Any] = {}
_PCA = {"rotation": "pca"}
_TOKEN = {"rotation": "pca", "predictor": "token"}
_CONTEXT = {"rotation": "pca", "predictor": "context"}
# Of 8 bits: the most that divide 384 and, with two bytes for the token id, fit the rate.
_NUM_CODES = {8: 96, 16: 48, 32: 24, 64: 12}
_NUM_CODES_BESIDE_ID = {8: 64, 16: 32, 32: 16, 64: 8}


@dataclass(frozen=True, slots=True)
class Arm:
    """A codec; its rate is at least the one in its name.

    Attributes:
        stages: options of `ProductCodec.train`.
        num_tokens: about so many of the running text to train on.
    """

    name: str
    num_subspaces: int
    stages: dict[str, Any]
    codebook_size: int = 256
    num_tokens: int = 130_000


def _arms() -> dict[str, Arm]:
    arms = [
        Arm(f"{family} {rate}x", codes[rate], stages)
        for family, codes, stages in (
            ("plain", _NUM_CODES, _PLAIN),
            ("rotated", _NUM_CODES, _PCA),
            ("token", _NUM_CODES_BESIDE_ID, _TOKEN),
            ("context", _NUM_CODES_BESIDE_ID, _CONTEXT),
        )
        for rate in RATES
    ]
    arms.append(Arm(MEMORY_VQ, 24, _PLAIN, codebook_size=65_536, num_tokens=440_000))
    return {arm.name: arm for arm in arms}


ARMS = _arms()
RANDOM_SPAN, SHARED_WORDS = "random span", "most shared words"
ALIGNED, NOT_ALIGNED = "with", "without"
JOINT_ARMS = ("plain 16x", "plain 64x", "token 16x", "token 64x")
READING, RANKING, ALIGNMENT = "reading", "ranking", "alignment"


def _of(*families: str, rates: tuple[int, ...] = RATES) -> tuple[str, ...]:
    return tuple(f"{family} {rate}x" for family in families for rate in rates)


_MAIN = ("plain", "rotated", "token")
# Task, mode and arms of the runs of a seed, what matters most first.
_RUNS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (READING, GUESSED, (RANDOM_SPAN, SHARED_WORDS)),
    (READING, AS_TRAINED, (RAW, *_of(*_MAIN))),
    (READING, ADAPTED, (RAW, *_of(*_MAIN, rates=(16, 64)))),
    (READING, JOINT, (RAW, *JOINT_ARMS)),
    (READING, ADAPTED, _of(*_MAIN, rates=(8, 32))),
    (RANKING, AS_TRAINED, (RAW, *_of(*_MAIN))),
    (READING, AS_TRAINED, _of("context")),
    (READING, CODEBOOK, JOINT_ARMS),
    (RANKING, JOINT, JOINT_ARMS),
    (RANKING, AS_TRAINED, _of("context")),
    (READING, AS_TRAINED, (MEMORY_VQ,)),
    (READING, ADAPTED, (MEMORY_VQ,)),
    (RANKING, AS_TRAINED, (MEMORY_VQ,)),
    (READING, JOINT, tuple(each for each in _of(*_MAIN) if each not in JOINT_ARMS)),
    (ALIGNMENT, ALIGNMENT, (ALIGNED, NOT_ALIGNED)),
)


def keys(num_seeds: int) -> list[dict[str, str | int]]:
    """Return the keys of all runs; those of a seed come before those of the next."""
    found: list[dict[str, str | int]] = []
    for seed in range(num_seeds):
        for task, mode, names in _RUNS:
            key: dict[str, str | int] = {"task": task, "mode": mode, "seed": seed}
            folds = range(NUM_FOLDS) if task == READING else ()
            found += [key | {"arm": name, "fold": fold} for fold in folds for name in names]
            if not folds:
                found += [key | {"arm": name} for name in names]
    return found
