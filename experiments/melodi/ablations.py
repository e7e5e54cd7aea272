"""What is taken from MELODI in training: the gate's freedom, or gradients from window to window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from memstore.models.melodi import Melodi
from memstore.models.melodi_stack import MelodiLayer

Ablation = Literal["gate", "gradients"]
_Mixed = Callable[..., torch.Tensor]


def ablate(model: Melodi, ablation: Ablation) -> None:
    """Take a part from a model before it learns.

    Args:
        model: MELODI with a queue; it is changed.
        ablation: `"gate"`: near and far stay mixed half and half; `"gradients"`: memory passes from
            window to window without its gradient, so that nothing teaches the mixers that make it.
    """
    for layer in model.modules():
        if not isinstance(layer, MelodiLayer):
            continue
        if ablation == "gradients":
            layer.next_short = _cut(layer.next_short)
            layer.next_long = _cut(layer.next_long)
        elif layer.to_long is not None:
            with torch.no_grad():
                layer.block.gate.zero_()  # whose sigmoid is a half
            layer.block.gate.requires_grad_(False)


def _cut(mixed: _Mixed) -> _Mixed:
    def without_gradient(*given: torch.Tensor | None) -> torch.Tensor:
        return mixed(*given).detach()

    return without_gradient
