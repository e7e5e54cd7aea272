"""Losses of held-out documents, one by one, by the position in a document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from encoder_jobs.melodi_streams import NO_TARGET
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_steps import autocast
from memstore.models.melodi import Melodi
from memstore.models.melodi_state import StreamState

Alter = Callable[[StreamState], StreamState]
"""Changes what a model remembers."""


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


def bucket_name(number: int) -> str:
    """Return the windows of a column of `Losses`."""
    first, last = (1 << number) >> 1, (1 << number) - 1
    return f"{first}" if first == last else f"{first}-{last}"


@torch.no_grad()
def score_each(
    model: Melodi,
    documents: Ragged,
    *,
    num_streams: int = 16,
    segment_windows: int = 8,
    precision: str = "auto",
    alter: Alter | None = None,
) -> Losses:
    """Read documents from their starts to their ends and score each token but the first.

    Args:
        model: on the device where it is to compute; it is left in eval mode.
        documents: N of token ids, two or more of each.
        num_streams: documents that are read side by side, the longest first.
        segment_windows: windows that go through the model at once; 1 where `alter` is given.
        precision: as of `MelodiOptions`.
        alter: changes the state before every window.
    """
    model.eval()
    window, device = model.config.window, model.embedding.weight.device
    length = window * (1 if alter else segment_windows)
    num_buckets = 1 + int(_bucket(documents.lengths.max() - 2, window))
    sums = np.zeros((len(documents), num_buckets))
    counts = np.zeros(sums.shape, np.int64)
    order = np.argsort(-documents.lengths, kind="stable")
    for first in range(0, len(order), num_streams):
        rows = order[first : first + num_streams]
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
            for number in np.unique(buckets):
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
    """Return 0 for window 0, else 1 + log2 of the window, cut."""
    exponents: np.ndarray = np.frexp(positions // window)[1]
    return exponents
