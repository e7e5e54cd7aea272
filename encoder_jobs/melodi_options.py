"""What a user asks of `memstore train melodi`, apart from the model and the text."""

from __future__ import annotations

from dataclasses import dataclass

from encoder_jobs.training_options import OPTIMIZERS, check_options
from encoder_jobs.training_schedule import ScheduledOptions

_RATES = {"adamw": 1e-3, "adafactor": 1e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class MelodiOptions(ScheduledOptions):
    """How a model of streams is trained. A row of a batch is a stream, reading a document of its
    own.

    Attributes:
        segment_windows: windows of a document that are read in one step; gradients cross all of
            them, and nothing before them.
        optimizer: `"adamw"` (decay 0.9 and 0.95) or `"adafactor"` (momentum 0.9, decay 0.8,
            parameter scaling), neither with weight decay. The highest rate is 0.001 of AdamW, 0.01
            of Adafactor, which multiplies it by the size of each weight.
        source: folder of the model to start from; empty: random weights.
        codec: folder of the codec that the queue is kept in; it learns with the model. Empty:
            entries as they are.

    Raises:
        ConfigError: if a value is out of range.

    Source: the released code of MELODI (arXiv 2410.03156) for segments, Adafactor and schedule.
    """

    segment_windows: int = 8
    optimizer: str = "adamw"
    source: str = ""
    codec: str = ""

    def __post_init__(self) -> None:
        ScheduledOptions.__post_init__(self)
        check_options(
            self, choices={"optimizer": OPTIMIZERS}, counts=("segment_windows",), positives=()
        )

    @property
    def default_rate(self) -> float:
        """The highest rate if none is given."""
        return _RATES[self.optimizer]
