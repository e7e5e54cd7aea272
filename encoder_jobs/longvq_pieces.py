"""Documents as rows of tokens to read, and the tokens that are to be told from them.

Causal, each token is told from those before it. Denoising, some tokens are hidden and told from all
others: that makes an encoder, which reads in both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from encoder_jobs.ragged import Ragged
from encoder_jobs.training_steps import NO_TARGET
from encoder_jobs.training_text import check_documents
from memstore.encoders.batching import pad
from memstore.models.longvq_config import LongVQConfig

MASKED_SHARE = 0.15
SPAN_TOKENS = 3
"""Of hidden tokens, the share, and how many stand together on average; see `hide`."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B pieces.

    Attributes:
        tokens: (B, L) int64; zeros after a piece's end.
        mask: (B, L) bool, there is a token.
        targets: (B, L) int64, what is to be told at each place; -100: nothing.
        num_targets: how many there are.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor
    num_targets: int


Row = tuple[np.ndarray, np.ndarray]
"""Tokens and targets of a piece, (T,) int32 each."""


class Pieces:
    """Documents, of which long ones are cut.

    Pieces follow one another, and a target is never lost at a cut. Denoising, what is left over
    after the last cut has a piece of its own if it is two tokens or more.

    Args:
        documents: token ids, two or more of each.
        config: of the model: it says whether it is causal, and which id hides a token, its last.
        max_tokens: of a piece.
        seed: decides what is hidden.

    Raises:
        ConfigError: if there is no document, or one of fewer than two tokens.
    """

    def __init__(
        self, documents: Ragged, config: LongVQConfig, *, max_tokens: int, seed: int
    ) -> None:
        check_documents(documents, "to read")
        self._values, self._seed = documents.values, seed
        self._is_causal, self._masked_id = config.is_causal, config.vocab_size - 1
        counts = -(-(documents.lengths - 1) // max_tokens)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        self._starts = np.repeat(documents.offsets[:-1], counts)
        self._starts += max_tokens * (np.arange(len(first)) - first)
        # A causal piece ends with the first token of the next one, which it only tells.
        longest = max_tokens + self._is_causal
        self._ends = np.minimum(self._starts + longest, np.repeat(documents.offsets[1:], counts))

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def lengths(self) -> np.ndarray:
        """(P,) int64, tokens of each that are read."""
        lengths: np.ndarray = self._ends - self._starts - self._is_causal
        return lengths

    def read(self, piece: int, drawn: int) -> Row:
        """Return a piece as it is read and told.

        Args:
            piece: its number.
            drawn: says what is hidden of it: another number, other tokens.
        """
        ids = self._values[self._starts[piece] : self._ends[piece]]
        if self._is_causal:
            return ids[:-1], ids[1:]
        is_hidden = hide(len(ids), np.random.default_rng([self._seed, drawn]))
        return np.where(is_hidden, self._masked_id, ids), np.where(is_hidden, ids, NO_TARGET)


def hide(length: int, random: np.random.Generator) -> np.ndarray:
    """Choose tokens to hide, in short spans: (length,) bool.

    15 % of them (`MASKED_SHARE`), one at least, in spans of three tokens (`SPAN_TOKENS`) on
    average, drawn evenly; a span may stand at either end, and none touches another.

    Source: T5's span corruption (arXiv 1910.10683) for share and length of spans.
    Differs: hidden tokens stay where they are, each one replaced by the same id, so that a text
    keeps its length. The paper of LongVQ has no such training; share, spans and id are our choice.
    """
    num_hidden = max(1, round(MASKED_SHARE * length))
    num_shown = length - num_hidden
    num_spans = min(max(1, round(num_hidden / SPAN_TOKENS)), num_shown + 1)
    cuts = np.sort(random.choice(num_hidden - 1, num_spans - 1, replace=False)) + 1
    spans = np.diff(cuts, prepend=0, append=num_hidden)
    gaps = np.sort(random.choice(num_shown + 1, num_spans, replace=False))
    return np.insert(np.zeros(num_shown, bool), np.repeat(gaps, spans), True)


def stack(rows: Sequence[Row], device: torch.device) -> Batch:
    """Stack pieces to the longest of them."""
    tokens, mask = pad([tokens for tokens, _ in rows], 0)
    targets, _ = pad([targets for _, targets in rows], NO_TARGET)
    return Batch(
        tokens=torch.from_numpy(tokens).to(device),
        mask=torch.from_numpy(mask).to(device).bool(),
        targets=torch.from_numpy(targets).to(device),
        num_targets=num_targets(rows),
    )


def num_targets(rows: Sequence[Row]) -> int:
    """Return how many tokens are to be told of pieces."""
    return sum(int((targets != NO_TARGET).sum()) for _, targets in rows)
