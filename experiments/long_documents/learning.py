"""A LongVQ model learns to put a question beside the passage that answers it.

A passage's vector is the mean of the model's output over its tokens, of unit length, as the store
makes it (memstore/encoders/longvq.py): of a document that is read whole, or of the passage alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F

from experiments.long_documents.task import Batch
from experiments.longvq.learning import Course, take_steps
from memstore.encoders.batching import pad
from memstore.models.longvq import LongVQ

_SHARPNESS = 20.0  # what cosines are multiplied with


def learn(
    model: LongVQ, batches: Iterator[Batch], course: Course, *, is_whole: bool
) -> list[float]:
    """Train a model to tell the gold passage from all others of a batch; return each step's loss.

    Args:
        model: in place.
        batches: to learn from.
        course: how.
        is_whole: passages are spans of documents that are read whole; else each is read alone.

    Raises:
        ArithmeticError: as `take_steps`.
    """
    losses = (_loss(model, batch, is_whole=is_whole) for batch in batches)
    return take_steps(model, losses, course)


def _loss(model: LongVQ, batch: Batch, *, is_whole: bool) -> torch.Tensor:
    passages = list(chain.from_iterable(batch.documents))
    read = [np.concatenate(each) for each in batch.documents] if is_whole else passages
    found, loss = _vectors(model, read, [len(each) for each in passages])
    asked, more = _vectors(model, batch.questions, [len(each) for each in batch.questions])
    gold = torch.tensor(batch.gold, device=found.device)
    return F.cross_entropy(_SHARPNESS * asked @ found.T, gold) + loss + more


def _vectors(
    model: LongVQ, sequences: Sequence[np.ndarray], spans: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (P, D) vectors of spans, which together are the sequences; and a loss."""
    device = model.embedding.weight.device
    ids, mask = (torch.from_numpy(each).to(device) for each in pad(sequences, 0))
    output = model(ids, mask.bool())
    numbers = torch.arange(len(spans), device=device)
    owners = numbers.repeat_interleave(torch.tensor(spans, device=device))
    sums = output.hidden.new_zeros(len(spans), model.config.dim)
    sums = sums.index_add(0, owners, output.hidden[mask.bool()])
    return F.normalize(sums, dim=1), output.quantizer_loss
