"""Spans of tokens as answers: their scores over all passages, the likeliest, its characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from memstore.errors import ConfigError, ShapeError
from memstore.models.lumen_packing import PackedRows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from memstore.types import Passage


@dataclass(frozen=True, slots=True, eq=False)
class ExtractiveOutput:
    """Scores of B questions, each with K passages of P tokens.

    Attributes:
        start_logits, end_logits: (B, K, P) float32, -inf where no answer may start or end.
        null_logits: (B,) float32, of "none of these passages has the answer".
        loss: (), mean cross-entropy of start and end; None if no spans were given.
    """

    start_logits: torch.Tensor
    end_logits: torch.Tensor
    null_logits: torch.Tensor
    loss: torch.Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class BestSpans:
    """The likeliest span of each of B questions.

    Attributes:
        passages, starts, ends: (B,) int64; rows `starts` to `ends`, both included, of a memory.
        scores, null_scores: (B,) float32, log probability of the span and of no answer.
    """

    passages: torch.Tensor
    starts: torch.Tensor
    ends: torch.Tensor
    scores: torch.Tensor
    null_scores: torch.Tensor


def best_spans(output: ExtractiveOutput, *, max_tokens: int = 30) -> BestSpans:
    """Find each question's likeliest span of at most `max_tokens` tokens, over all its passages.

    Where no token is text, its score is -inf.

    Raises:
        ConfigError: if `max_tokens` is below 1.
        ShapeError: if the questions have no passage, or their passages no token.
    """
    if max_tokens < 1:
        raise ConfigError(f"max_tokens: got {max_tokens}, wanted 1 or more")
    if not output.start_logits[0].numel():
        raise ShapeError(
            f"passages: got {tuple(output.start_logits.shape)}, wanted (B, K, P) with tokens to "
            "find an answer in"
        )
    start, start_null = _shared_log_softmax(output.start_logits, output.null_logits)
    end, end_null = _shared_log_softmax(output.end_logits, output.null_logits)
    num_tokens = start.shape[2]
    # (B, K, P, max_tokens): the end of a span by the distance from its start.
    ends = functional.pad(end, (0, max_tokens - 1), value=-torch.inf).unfold(2, max_tokens, 1)
    best = (start.unsqueeze(3) + ends).flatten(1).max(1)
    begins, lengths = best.indices // max_tokens, best.indices % max_tokens
    starts = begins % num_tokens
    return BestSpans(
        passages=begins // num_tokens,
        starts=starts,
        ends=starts + lengths,
        scores=best.values,
        null_scores=start_null + end_null,
    )


def token_spans(
    tokenizer: Tokenizer, text: str, passage: Passage, *, num_suffix_tokens: int = 1
) -> np.ndarray:
    """Return which characters of a passage's document each row of its memory stands for.

    Args:
        tokenizer: the encoder's, without truncation.
        text: the document's; it is tokenized whole, as it was when it was cut into passages, since
            a window's edge may cut a word.
        passage: one of its passages.
        num_suffix_tokens: special tokens at the end of every passage.

    Returns:
        (num_tokens, 2) int64 start and end in `text`; (-1, -1) for special tokens and the title.

    Raises:
        ShapeError: if the text has no such passage.
    """
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    spans = np.array(offsets, np.int64).reshape(-1, 2)
    first = int(np.searchsorted(spans[:, 0], passage.start))
    last = int(np.searchsorted(spans[:, 1], passage.end, side="right"))
    before = passage.num_tokens - num_suffix_tokens - (last - first)
    if before < 0 or first >= last or (spans[first, 0], spans[last - 1, 1]) != (
        passage.start, passage.end,
    ):  # fmt: skip
        raise ShapeError(
            f"passage {passage.passage_id}: characters {passage.start} to {passage.end} are not "
            f"{passage.num_tokens} tokens of the text; give the document that it was cut from"
        )
    rows = np.full((passage.num_tokens, 2), -1, np.int64)
    rows[before : before + last - first] = spans[first:last]
    return rows


def unpack(
    packed: PackedRows, values: torch.Tensor, question_mask: torch.Tensor, memory_mask: torch.Tensor
) -> torch.Tensor:
    """Return values (R, L, C) of packed rows where the memories' tokens were: (B, K, P, C)."""
    shape = memory_mask.shape
    spread = values.new_zeros(packed.num_questions * packed.num_passages, *values.shape[1:])
    spread = spread.index_copy(0, packed.rows, values)
    if not shape[1]:
        return values.new_zeros(*shape, values.shape[2])
    # A row is the question's tokens and then the memory's, each without its padding.
    num_before = question_mask.bool().sum(1)[:, None, None]  # (B, 1, 1)
    places = num_before + memory_mask.bool().cumsum(2) - 1  # (B, K, P)
    places = places.clamp(max=values.shape[1] - 1).flatten(0, 1)
    found = spread.gather(1, places.unsqueeze(2).expand(-1, -1, values.shape[2]))
    return found.view(*shape, values.shape[2])


def mean_by_question(packed: PackedRows, values: torch.Tensor) -> torch.Tensor:
    """Return (B,): the mean of values (R,) over the passages of each question."""
    owners = packed.rows // packed.num_passages
    sums = values.new_zeros(packed.num_questions).index_add(0, owners, values)
    return sums / owners.bincount(minlength=packed.num_questions)


def span_loss(
    start: torch.Tensor,
    end: torch.Tensor,
    null: torch.Tensor,
    text_mask: torch.Tensor,
    spans: torch.Tensor,
) -> torch.Tensor:
    """Return the mean cross-entropy of starts and ends; as of `ExtractiveLumen.forward`.

    Raises:
        ShapeError: if a span is not one of text tokens.
    """
    _, num_passages, num_tokens = start.shape
    is_null = spans[:, 0] == -1
    limits = spans.new_tensor([num_passages, num_tokens, num_tokens])
    is_inside = ((spans >= 0) & (spans < limits)).all(1) & (spans[:, 1] <= spans[:, 2])
    places = spans[:, :1] * num_tokens + spans[:, 1:]  # (B, 2) among K * P
    places = torch.where(is_inside[:, None], places, num_passages * num_tokens)
    is_text = functional.pad(text_mask.flatten(1), (0, 1), value=True).gather(1, places).all(1)
    refused = torch.nonzero(~(is_null | (is_inside & is_text)))
    if len(refused):
        row = int(refused[0])
        raise ShapeError(
            f"spans: row {row} is {spans[row].tolist()}, wanted (passage, first, last) with first "
            f"<= last, text tokens of {num_passages} passages of {num_tokens}; or passage -1",
            row=row,
        )
    losses = []
    for side, logits in enumerate((start, end)):
        likely, no_answer = _shared_log_softmax(logits, null)
        joined = torch.cat([likely.flatten(1), no_answer.unsqueeze(1)], 1)
        losses.append(functional.nll_loss(joined, places[:, side]))
    return (losses[0] + losses[1]) / 2


def _shared_log_softmax(
    logits: torch.Tensor, null: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalize (B, K, P) logits and (B,) null logits together."""
    joined = torch.cat([logits.flatten(1), null.unsqueeze(1)], 1).log_softmax(1)
    return joined[:, :-1].view_as(logits), joined[:, -1]
