"""How well a model predicts held-out documents, overall and by the position in a document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from encoder_jobs.ragged import Ragged
from encoder_jobs.training_steps import NO_TARGET, autocast, perplexity, rank
from encoder_jobs.training_text import check_documents
from memstore.models.melodi import Melodi
from memstore.models.melodi_state import StreamState
from memstore.models.vq_codebook import num_ranks, sum_over_ranks

Alter = Callable[[StreamState], StreamState]
"""Changes what a model remembers."""


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
        return perplexity(self.loss)


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
        return perplexity(self.loss)

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


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """What each document cost at each distance from its start.

    Attributes:
        sums: (N, P) float64, cross-entropies in nats. Column 0 is window 0, column p the windows
            from 2^(p-1) to 2^p - 1.
        counts: (N, P) int64, tokens they are of.
    """

    sums: np.ndarray
    counts: np.ndarray


def score_documents(
    model: Melodi,
    documents: Ragged,
    *,
    num_streams: int = 8,
    segment_windows: int = 8,
    precision: str = "auto",
) -> Validation:
    """Read documents from their starts to their ends and score each token but the first.

    Every process of a group calls this and reads its share. Arguments are as of `score_each`.

    Raises:
        ConfigError: if there is no document, or one is too short.
    """
    check_documents(documents, "to read")
    order = np.argsort(-documents.lengths, kind="stable")
    losses = score_each(
        model,
        documents,
        order[rank() :: num_ranks()],
        num_streams=num_streams,
        segment_windows=segment_windows,
        precision=precision,
    )
    totals = torch.from_numpy(np.stack([losses.sums.sum(0), losses.counts.sum(0)]))
    totals = totals.to(model.embedding.weight.device)
    sum_over_ranks(totals)
    sums, counts = totals.cpu().numpy()
    return _validation(len(documents), sums, counts)


@torch.no_grad()
def score_each(
    model: Melodi,
    documents: Ragged,
    chosen: np.ndarray | None = None,
    *,
    num_streams: int = 16,
    segment_windows: int = 8,
    precision: str = "auto",
    alter: Alter | None = None,
) -> Losses:
    """Read documents and score each token but the first, document by document.

    Args:
        model: on the device where it is to compute; it is left in eval mode.
        documents: N of token ids, two or more of each.
        chosen: numbers of those that are read, in order; the others cost nothing. None: all, the
            longest first.
        num_streams: documents that are read side by side.
        segment_windows: windows that go through the model at once; the figures are the same to
            rounding. 1 where `alter` is given.
        precision: as of `MelodiOptions`.
        alter: changes the state before every window, for an ablation.
    """
    model.eval()
    window, device = model.config.window, model.embedding.weight.device
    length = window * (1 if alter else segment_windows)
    num_buckets = 1 + int(_bucket(documents.lengths.max() - 2, window))
    sums = np.zeros((len(documents), num_buckets))
    counts = np.zeros(sums.shape, np.int64)
    if chosen is None:
        chosen = np.argsort(-documents.lengths, kind="stable")
    for first in range(0, len(chosen), num_streams):
        rows = chosen[first : first + num_streams]
        tokens, targets = _pad(documents, rows, length)
        state = model.initial_state(len(rows))
        for start in range(0, tokens.shape[1], length):
            if alter is not None:
                state = alter(state)
            part = slice(start, start + length)
            with autocast(precision, device):
                output = model(torch.from_numpy(tokens[:, part]).to(device), state)
            state = output.state
            losses = _losses(output.logits, torch.from_numpy(targets[:, part]).to(device))
            buckets = _bucket(start + np.arange(length), window)
            for number in np.unique(buckets[buckets < num_buckets]):  # beyond, all is padding
                columns = buckets == number
                sums[rows, number] += losses[:, columns].sum(axis=1)
                counts[rows, number] += (targets[:, part][:, columns] != NO_TARGET).sum(axis=1)
    return Losses(sums, counts)


def _pad(documents: Ragged, rows: np.ndarray, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and targets, (B, T) int64, T a multiple of so many."""
    longest = int(documents.lengths[rows].max()) - 1
    shape = len(rows), -(-longest // multiple) * multiple
    tokens, targets = np.zeros(shape, np.int64), np.full(shape, NO_TARGET, np.int64)
    for at, row in enumerate(rows.tolist()):
        ids = documents[row]
        tokens[at, : len(ids) - 1], targets[at, : len(ids) - 1] = ids[:-1], ids[1:]
    return tokens, targets


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=NO_TARGET, reduction="none"
    )
    flat: np.ndarray = losses.reshape(targets.shape).double().cpu().numpy()
    return flat


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
