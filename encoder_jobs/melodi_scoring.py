"""How well a model predicts held-out documents, overall and by the position in a document."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from encoder_jobs.melodi_streams import NO_TARGET, Segment, Streams, once
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_steps import autocast, rank
from memstore.models.melodi import Melodi
from memstore.models.melodi_state import StreamState
from memstore.models.vq_codebook import num_ranks, sum_over_ranks

_LARGEST_EXPONENT = 700.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens that lie about as far from the start of their documents.

    Attributes:
        first_window, last_window: where, counted from 0: 0, 1, 2 to 3, 4 to 7, and so on.
        num_tokens: how many were predicted there.
        loss: their mean cross-entropy, in nats.
    """

    first_window: int
    last_window: int
    num_tokens: int
    loss: float

    @property
    def perplexity(self) -> float:
        """Exponential of the loss."""
        return _exp(self.loss)


@dataclass(frozen=True, slots=True)
class Validation:
    """What came of held-out documents.

    Attributes:
        num_documents: how many they are.
        num_tokens: how many were predicted: all but the first of each.
        loss: mean cross-entropy of a token, in nats.
        buckets: the same by position; those without a token are left out.
    """

    num_documents: int
    num_tokens: int
    loss: float
    buckets: tuple[Bucket, ...]

    @property
    def perplexity(self) -> float:
        """Exponential of the loss."""
        return _exp(self.loss)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {
            "num_documents": self.num_documents,
            "num_tokens": self.num_tokens,
            "loss": self.loss,
            "perplexity": self.perplexity,
            "by_position": [
                {**asdict(bucket), "perplexity": bucket.perplexity} for bucket in self.buckets
            ],
        }


@torch.no_grad()
def score_documents(
    model: Melodi,
    documents: Ragged,
    *,
    num_streams: int = 8,
    segment_windows: int = 8,
    precision: str = "auto",
    alter: Callable[[StreamState], StreamState] | None = None,
) -> Validation:
    """Read documents from their starts to their ends and score each token but the first.

    Every process of a group calls this and reads its share.

    Args:
        model: on the device where it is to compute; it is left in eval mode.
        documents: N of token ids, two or more of each.
        num_streams: documents that are read side by side.
        segment_windows: windows that go through the model at once; the figures are the same to
            rounding.
        precision: as of `MelodiOptions`.
        alter: changes the state before each segment, for an ablation.

    Raises:
        ConfigError: if there is no document, or one is too short.
    """
    model.eval()
    device, window = model.embedding.weight.device, model.config.window
    num_buckets = (
        1 + _bucket(np.array([documents.lengths.max()]), window).item() if len(documents) else 1
    )
    sums = np.zeros((2, num_buckets))  # losses, tokens
    order = np.argsort(-documents.lengths, kind="stable")[rank() :: num_ranks()]
    streams = Streams(
        documents, num_streams, window=window, segment_windows=segment_windows, choose=once(order)
    )
    state = model.initial_state(num_streams)
    while (segment := streams.next()) is not None:
        tokens, targets, starts = segment.to(device)
        state = state.reset(starts)
        if alter is not None:
            state = alter(state)
        with autocast(precision, device):
            output = model(tokens, state)
        state = output.state
        sums += _sum_up(output.logits, targets, segment, window, num_buckets)
    totals = torch.from_numpy(sums).to(device)
    sum_over_ranks(totals)
    losses, counts = totals.cpu().numpy()
    return _validation(len(documents), losses, counts)


def _sum_up(
    logits: torch.Tensor, targets: torch.Tensor, segment: Segment, window: int, num_buckets: int
) -> np.ndarray:
    """Return (2, num_buckets): the sum of losses, and how many they are."""
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=NO_TARGET, reduction="none"
    )
    positions = segment.positions[:, None] + np.arange(segment.tokens.shape[1])
    counts = segment.targets.ravel() != NO_TARGET
    buckets = _bucket(positions.ravel(), window)[counts]
    weights = losses.double().cpu().numpy()[counts], np.ones(len(buckets))
    return np.stack([np.bincount(buckets, each, num_buckets) for each in weights])


def _bucket(positions: np.ndarray, window: int) -> np.ndarray:
    """Return the bucket of positions: 0 of window 0, else 1 + log2 of the window, cut."""
    exponents: np.ndarray = np.frexp(positions // window)[1]  # of 0: 0; of 2 and 3: 2
    return exponents


def _validation(num_documents: int, losses: np.ndarray, counts: np.ndarray) -> Validation:
    buckets = tuple(
        Bucket(
            first_window=(1 << number) >> 1,
            last_window=(1 << number) - 1,
            num_tokens=int(counts[number]),
            loss=float(losses[number] / counts[number]),
        )
        for number in range(len(counts))
        if counts[number]
    )
    loss = float(losses.sum() / counts.sum())
    return Validation(num_documents, int(counts.sum()), loss, buckets)


def _exp(loss: float) -> float:
    return math.inf if loss > _LARGEST_EXPONENT else math.exp(loss)
