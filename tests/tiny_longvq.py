"""Tiny LongVQ models with random weights, and texts of token ids for them."""

from __future__ import annotations

from typing import Any

import torch

from memstore.models.longvq import LongVQ
from memstore.models.longvq_config import (
    Attention,
    KeyGradient,
    LongVQConfig,
    StateSpace,
    Weighting,
)

VOCAB = 19
WINDOW = 5


def tiny_config(**changes: Any) -> LongVQConfig:
    """Return two layers, 16 wide, with all of LongVQ's parts and few sizes alike."""
    values: dict[str, Any] = {
        "vocab_size": VOCAB,
        "is_causal": True,
        "dim": 16,
        "num_layers": 2,
        "num_heads": 2,
        "key_dim": 6,
        "value_dim": 20,
        "ffn_dim": 24,
        "state_size": 4,
        "num_codes": 7,
        "moment_width": 4,
        "window": WINDOW,
    }
    return LongVQConfig(**{**values, **changes})


# Each can read a text in parts when it is causal.
VARIANTS: dict[str, dict[str, Any]] = {
    "longvq": {"key_gradient": KeyGradient.LOCAL},
    "laplace": {"weighting": Weighting.LAPLACE},
    "s4d": {"state_space": StateSpace.S4D},
    "no state space": {"state_space": StateSpace.NONE},
    "band alone": {"attention": Attention.BAND},
    "state space alone": {"attention": Attention.NONE},
    "no bias": {"has_bias": False},
    "means": {"key_gradient": KeyGradient.MEANS},
    "auto": {},
    "moments": {"key_gradient": KeyGradient.MOMENTS},
    "learned codebook": {"key_gradient": KeyGradient.LEARNED},
    "frozen codebook": {"learns_codebook": False},
}


def make_model(
    *,
    seed: int = 3,
    dtype: torch.dtype = torch.float64,
    checkpointing: bool = False,
    **changes: Any,
) -> LongVQ:
    """Return a model in eval mode, with codebooks that three batches have moved.

    In float64, so that two ways to compute the same agree to many digits.
    """
    torch.manual_seed(seed)
    model = LongVQ(tiny_config(**changes), checkpointing=checkpointing).to(dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    with torch.no_grad():
        for batch in range(3):
            model(make_tokens(50, seed=batch))
    return model.eval()


def make_tokens(length: int, *, batch_size: int = 2, seed: int = 5) -> torch.Tensor:
    """Return (batch_size, length) ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (batch_size, length), generator=generator)


def make_mask(length: int, *, batch_size: int = 2, seed: int = 5) -> torch.Tensor:
    """Return (batch_size, length) bool with a third of the tokens missing, here and there."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch_size, length, generator=generator) > 1 / 3
