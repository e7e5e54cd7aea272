"""How well LongVQ tells tokens of held-out documents."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from encoder_jobs.longvq_pieces import Pieces, stack
from encoder_jobs.training_steps import autocast, perplexity, rank
from memstore.models.longvq import LongVQ
from memstore.models.vq_codebook import num_ranks, sum_over_ranks


@dataclass(frozen=True, slots=True)
class Validation:
    """What came of held-out documents.

    Attributes:
        num_pieces: how many they were cut into.
        num_tokens: how many were told: hidden ones, or all but the first of a document.
        loss: mean cross-entropy of one, in nats.
    """

    num_pieces: int
    num_tokens: int
    loss: float

    @property
    def perplexity(self) -> float:
        """Exponential of the loss."""
        return perplexity(self.loss)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {**asdict(self), "perplexity": self.perplexity}


@torch.no_grad()
def score_pieces(
    model: LongVQ, pieces: Pieces, *, batch_size: int = 8, precision: str = "auto"
) -> Validation:
    """Read pieces, each once, and score what is to be told of them; hidden is the same every time.

    Every process of a group calls this and reads its share.

    Args:
        model: on the device where it is to compute; it is left in eval mode.
        pieces: to read.
        batch_size: pieces that go through the model together, of like length.
        precision: as of `LongVQOptions`.

    Raises:
        ConfigError: if a piece is longer than memory allows.
        ShapeError: if the model gives what is not finite.
    """
    model.eval()
    device = model.embedding.weight.device
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # losses, tokens
    order = pieces.lengths.argsort(kind="stable")[::-1][rank() :: num_ranks()].tolist()
    for at in range(0, len(order), batch_size):
        batch = stack([pieces.read(each, each) for each in order[at : at + batch_size]], device)
        with autocast(precision, device):
            output = model(batch.tokens, batch.mask)
            mean = model.loss(output, batch.targets) - output.quantizer_loss
        sums += torch.tensor([float(mean) * batch.num_targets, batch.num_targets], device=device)
    sum_over_ranks(sums)
    total, num_tokens = sums.tolist()
    return Validation(len(pieces), int(num_tokens), total / num_tokens)
