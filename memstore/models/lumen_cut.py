"""Weights by name, as the cut between frozen and live layers moves.

T5 keeps the bias of relative positions in the first layer of a stack and adds it in every layer, so
each of LUMEN's three stacks has its own copy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

_LIVE = re.compile(r"generator\.encoder\.block\.(\d+)\.(.+)")
_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
_NORM = "final_layer_norm.weight"
_TABLE = "embed_tokens.weight"
_ENCODERS = ("memory_encoder", "question_encoder")

Weights = Mapping[str, torch.Tensor]


def move_cut(weights: Weights, *, old: int, new: int, num_layers: int) -> dict[str, torch.Tensor]:
    """Return a LUMEN model's weights with the live layers `old` to `new` below the cut.

    Args:
        weights: a `Lumen`'s.
        old: how many layers are frozen in `weights`.
        new: how many shall be, `old` or more.
        num_layers: of frozen and live layers together.
    """
    moved: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        match = _LIVE.fullmatch(name)
        if match is None:
            moved[name] = tensor
            continue
        number, part = old + int(match[1]), match[2]
        is_bias = part == _BIAS
        if number < new and not (is_bias and number > 0):
            moved |= {f"{encoder}.block.{number}.{part}": tensor for encoder in _ENCODERS}
        if is_bias and new < num_layers:
            moved[f"generator.encoder.block.0.{part}"] = tensor
        elif number >= new:
            moved[f"generator.encoder.block.{number - new}.{part}"] = tensor
    if old == 0 < new:
        moved[f"memory_encoder.{_TABLE}"] = moved["generator.shared.weight"]
    if old < new == num_layers:
        norm = moved.pop(f"generator.encoder.{_NORM}")
        moved |= {f"{encoder}.{_NORM}": norm for encoder in _ENCODERS}
    return {name: tensor.clone() for name, tensor in moved.items()}


def join_encoder(
    memory_encoder: Weights, live_encoder: Weights, *, num_frozen_layers: int
) -> dict[str, torch.Tensor]:
    """Return the memory encoder's layers and then the live ones as the weights of one T5 encoder.

    Args:
        memory_encoder: its weights by its own names.
        live_encoder: likewise.
        num_frozen_layers: how many the memory encoder has.
    """
    joined = {"shared.weight": memory_encoder[_TABLE]}
    joined |= {f"encoder.{name}": each for name, each in memory_encoder.items() if name != _TABLE}
    for name, tensor in live_encoder.items():
        _, _, rest = name.partition("block.")
        number, _, part = rest.partition(".")
        if name == _NORM:
            joined[f"encoder.{_NORM}"] = tensor
        elif rest and not (part == _BIAS and num_frozen_layers > 0):
            joined[f"encoder.block.{num_frozen_layers + int(number)}.{part}"] = tensor
    return joined
