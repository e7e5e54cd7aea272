"""Tiny MELODI models and baselines with random weights, and texts of token ids for them."""

from __future__ import annotations

from typing import Any

import torch

from memstore.models.melodi import Melodi
from memstore.models.melodi_config import Architecture, MelodiConfig

WINDOW = 8
VOCAB = 23


def tiny_config(**changes: Any) -> MelodiConfig:
    """Return four layers, 16 wide, with all of MELODI's parts and no two sizes alike."""
    values = {
        "vocab_size": VOCAB,
        "dim": 16,
        "num_layers": 4,
        "num_heads": 2,
        "ffn_dim": 24,
        "window": WINDOW,
        "num_short_tokens": 5,
        "num_summary_tokens": 5,
        "num_long_tokens": 3,
        "queue_windows": 4,
        "dropout": 0.0,
    }
    return MelodiConfig(**{**values, **changes})


VARIANTS: dict[str, dict[str, Any]] = {
    "melodi": {},
    "more summary than short": {"num_summary_tokens": 7},
    "no branching": {"has_branching": False},
    "no queue": {"num_long_tokens": 0},
    "no short-term memory": {"num_short_tokens": 0},
    "first layer is long": {"long_layer": 0},
    "masked slots": {"masks_empty_slots": True},
    "transformer-xl": {"architecture": Architecture.TRANSFORMER_XL},
    "memorizing": {"architecture": Architecture.MEMORIZING},
    "memorizing, masked slots": {
        "architecture": Architecture.MEMORIZING,
        "masks_empty_slots": True,
    },
    "block-recurrent": {"architecture": Architecture.BLOCK_RECURRENT},
}


def make_model(*, seed: int = 3, dtype: torch.dtype = torch.float64, **changes: Any) -> Melodi:
    """Return a model in eval mode whose scales, norms and biases are of all sizes.

    In float64, so that two ways to compute the same agree to many digits.
    """
    torch.manual_seed(seed)
    model = Melodi(tiny_config(**changes)).to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.uniform_(0.5, 1.5)
        elif name.endswith("scale"):
            parameter.data.uniform_(1, 4).mul_(torch.tensor([1.0, -1.0]))
        elif name.endswith("mix.bias"):
            parameter.data.normal_()
    return model.eval()


def make_tokens(num_windows: float, *, batch_size: int = 2, seed: int = 5) -> torch.Tensor:
    """Return (batch_size, num_windows·W) ids."""
    generator = torch.Generator().manual_seed(seed)
    shape = batch_size, int(num_windows * WINDOW)
    return torch.randint(VOCAB, shape, generator=generator)
