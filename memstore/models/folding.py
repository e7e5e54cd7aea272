"""A codec's rotation folded into the weights, so that a reader gets memories as they were coded.

A codec with a rotation R stores y = R x, and turning back costs D² multiplications a token. A
layer of T5 reads its input through a norm without offset (RMSNorm) and a matrix, and writes by
adding: W diag(g) x/|x| = (W diag(g) Rᵀ) y/|y|, since |y| = |x|, and R (x + O h) = y + (R O) h. So
the live layers run in the rotated basis as they are, with other weights, and the decoder's
cross-attention reads their output through (W diag(g) Rᵀ) as well. The question alone is turned.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from memstore.errors import ConfigError
from memstore.models.lumen import Lumen

# Products of float32 rotations stay well below this at any width in use.
_ORTHOGONAL_TO = 1e-4


def fold_rotation(model: Lumen, rotation: np.ndarray) -> Lumen:
    """Return a copy of a model that reads memories in a codec's rotated basis.

    It gives what `model` gives with the rotation undone, to rounding, in eval mode. Its
    `encode_memories` gives rotated memories too.

    Args:
        model: in float32, or the folded weights are rounded once more.
        rotation: (D, D) orthogonal, `codec.rotation.matrix()`: rotated = R @ x.

    Raises:
        ConfigError: if the matrix is not orthogonal or of another width, or the model has a
            rotation already.

    Cost: D² multiplications a parameter row, once; D² a question token at each question.
    """
    _check(model, rotation)
    device = model.generator.shared.weight.device
    turn = torch.from_numpy(rotation.astype(np.float64)).to(device)
    folded = copy.deepcopy(model)
    folded.config = replace(model.config, rotation_sha256=rotation_digest(rotation))
    folded.rotation = turn.to(model.generator.shared.weight.dtype)
    live = folded.generator.encoder
    for block in live.block:
        attention, feed_forward = block.layer
        heads, dense = attention.SelfAttention, feed_forward.DenseReluDense
        _fold_reads(attention.layer_norm, (heads.q, heads.k, heads.v), turn)
        _fold_write(heads.o, turn)
        entries = [each for name, each in dense.named_children() if name.startswith("wi")]
        _fold_reads(feed_forward.layer_norm, entries, turn)
        _fold_write(dense.wo, turn)
    crosses = [block.layer[1].EncDecAttention for block in folded.generator.decoder.block]
    readers = [each for cross in crosses for each in (cross.k, cross.v)]
    _fold_reads(live.final_layer_norm, readers, turn)
    return folded


def rotation_digest(rotation: np.ndarray) -> str:
    """Return the sha256 of a rotation (D, D) as little-endian float32, rows in order."""
    # One zero: -0.0 has other bytes and is the same rotation.
    content = (rotation.astype("<f4") + np.float32(0)).tobytes()
    return hashlib.sha256(content).hexdigest()


@torch.no_grad()
def _fold_reads(norm: Any, readers: Iterable[Any], turn: torch.Tensor) -> None:
    """Move a norm's gain and the way back from the rotated basis into the matrices behind it."""
    has_gain = not isinstance(norm, nn.Identity)  # with no live layer the encoders normalize
    for linear in readers:
        weight = linear.weight.double()
        if has_gain:
            weight = weight * norm.weight.double()
        linear.weight.copy_(weight @ turn.T)
    if has_gain:
        norm.weight.fill_(1)


@torch.no_grad()
def _fold_write(linear: Any, turn: torch.Tensor) -> None:
    """Let a matrix add to the hidden state in the rotated basis."""
    linear.weight.copy_(turn @ linear.weight.double())


def _check(model: Lumen, rotation: np.ndarray) -> None:
    dim = model.config.dim
    if rotation.shape != (dim, dim):
        raise ConfigError(
            f"rotation: got {rotation.shape}, wanted ({dim}, {dim}), the width of the model's "
            "memories; take the codec that was trained on them"
        )
    turn = rotation.astype(np.float64)
    error = float(np.abs(turn @ turn.T - np.eye(dim)).max())
    if not error < _ORTHOGONAL_TO:  # a NaN is refused too
        raise ConfigError(
            f"rotation: got a matrix with |R Rᵀ - I| up to {error:.1e}, wanted an orthogonal one "
            f"(below {_ORTHOGONAL_TO:.0e}); take it from codec.rotation.matrix()"
        )
    if model.config.rotation_sha256:
        raise ConfigError(
            "rotation: got a model that has one folded in, wanted one without; take the model "
            "that it was folded from"
        )
