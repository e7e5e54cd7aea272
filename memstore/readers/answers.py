"""What a reader says, and how long each of its stages took."""

from __future__ import annotations

from dataclasses import dataclass, fields

from memstore.types import Hit


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and what it was read from.

    Attributes:
        question: as it was asked.
        text: the answer; empty if the model ended at once.
        passages: what was read, the best first; none: the question was answered alone. A passage
            that came without a token is not among them.
        token_ids: what the model wrote, without its end token.
    """

    question: str
    text: str
    passages: tuple[Hit, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall time of the stages of a batch, in seconds; `sum(many, Timings())` adds batches up.

    Retrieving and decoding go on while the model runs the batch before, so the stages of many
    batches together take longer than the clock on the wall.

    Attributes:
        num_questions: in the batch.
        num_tokens: of memory that were read for them.
        retrieve_s: `query`: search, and the memories' way to the reader.
        decode_s: from records to vectors on the reader's device.
        live_s: the question encoder, and the live layers over questions and memories.
        decoder_s: the answers, token by token.
    """

    num_questions: int = 0
    num_tokens: int = 0
    retrieve_s: float = 0.0
    decode_s: float = 0.0
    live_s: float = 0.0
    decoder_s: float = 0.0

    def __add__(self, other: Timings) -> Timings:
        names = [field.name for field in fields(self)]
        return Timings(**{name: getattr(self, name) + getattr(other, name) for name in names})
