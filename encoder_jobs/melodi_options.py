"""What a user asks of `memstore train melodi`, apart from the model and the text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from encoder_jobs.training_options import OPTIMIZERS, PRECISIONS, check_options, refused

_COUNTS = (
    "segment_windows",
    "steps",
    "batch_size",
    "micro_batch",
    "validate_every",
    "checkpoint_every",
)
_RATES = {"adamw": 1e-3, "adafactor": 1e-2}
_WARMUP_STEPS = 1000
_WARMUP_SHARE = 10  # of a short run, one step in so many at most
_LAST_RATE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class MelodiOptions:
    """How a model of streams is trained.

    Attributes:
        segment_windows: windows of a document that are read in one step; gradients cross all of
            them, and nothing before them.
        steps: updates of the weights.
        batch_size: streams, each reading a document of its own; over all workers.
        micro_batch: streams that go through the model together, on each worker.
        learning_rate: the highest; None: 0.001 of AdamW, 0.01 of Adafactor, which multiplies it by
            the size of each weight.
        warmup_steps: it rises to that evenly, then falls along a cosine to a tenth of it; None:
            1,000, of a short run a tenth.
        optimizer: `"adamw"` (decay 0.9 and 0.95) or `"adafactor"` (momentum 0.9, decay 0.8,
            parameter scaling), neither with weight decay.
        clip_norm: a longer gradient is shortened to this.
        precision: `"float32"`, `"bfloat16"` (mixed: weights stay float32) or `"auto"`: bfloat16 on
            a GPU.
        seed: decides the first weights, the order of documents, which are held out, and dropout.
        validate_every, checkpoint_every: steps.

    Raises:
        ConfigError: if a value is out of range.

    Source: the released code of MELODI (arXiv 2410.03156) for segments, Adafactor and schedule.
    """

    segment_windows: int = 8
    steps: int = 10_000
    batch_size: int = 8
    micro_batch: int = 8
    learning_rate: float | None = None
    warmup_steps: int | None = None
    optimizer: str = "adamw"
    clip_norm: float = 1.0
    precision: str = "auto"
    seed: int = 0
    validate_every: int = 500
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        check_options(
            self,
            choices={"optimizer": OPTIMIZERS, "precision": PRECISIONS},
            counts=_COUNTS,
            positives=("clip_norm",)
            if self.learning_rate is None
            else ("clip_norm", "learning_rate"),
        )
        if self.warmup_steps is not None and not 0 <= self.warmup_steps < self.steps:
            raise refused("warmup_steps", self.warmup_steps, f"0 to {self.steps - 1}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        highest = self.learning_rate or _RATES[self.optimizer]
        warmup = self.warmup_steps
        if warmup is None:
            warmup = min(_WARMUP_STEPS, self.steps // _WARMUP_SHARE)
        if step <= warmup:
            return highest * step / warmup
        share = (step - warmup) / (self.steps - warmup)  # above 0, and 1 at the last step
        falling = (1 + math.cos(math.pi * share)) / 2
        return highest * (_LAST_RATE + (1 - _LAST_RATE) * falling)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MelodiOptions:
        """Read back what `to_dict` wrote."""
        return cls(**values)
