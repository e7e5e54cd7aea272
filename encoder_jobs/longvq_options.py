"""What a user asks of `memstore train longvq`, apart from the model and the text."""

from __future__ import annotations

from dataclasses import dataclass

from encoder_jobs.training_options import refused
from encoder_jobs.training_schedule import ScheduledOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LongVQOptions(ScheduledOptions):
    """How LongVQ is trained, by AdamW (decay 0.9 and 0.95) without weight decay. A row of a batch
    is a document, or a piece of one that is longer than `max_tokens`.

    Attributes:
        max_tokens: of a piece, at most.
        checkpointing: keep only what enters each block, and run it again backward; as of `LongVQ`.

    Raises:
        ConfigError: if a value is out of range.
    """

    max_tokens: int = 4096
    checkpointing: bool = False

    def __post_init__(self) -> None:
        ScheduledOptions.__post_init__(self)
        if self.max_tokens < 2:
            raise refused("max_tokens", self.max_tokens, "2 or more")
