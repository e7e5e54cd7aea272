"""A queue that is empty, or that holds what codes of its entries decode to."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import nn

from encoder_jobs.ragged import Ragged
from memstore.codec import ProductCodec
from memstore.models.melodi import Melodi
from memstore.models.melodi_layers import TokenMixer
from memstore.models.melodi_stack import MelodiLayer, MelodiStack
from memstore.models.melodi_state import MelodiState, StreamState
from memstore.models.vq import ProductVQ

_BFLOAT16_BYTES = 2
_CODEBOOK_SIZE = 256


class CodedEntries(nn.Module):
    """Makes entries of a window as the mixer does, and gives them back decoded from their codes.

    In training the codebook follows the entries, and gradients pass as if nothing were lost.

    Args:
        mixer: makes the entries.
        bottleneck: quantizes them.
    """

    def __init__(self, mixer: TokenMixer, bottleneck: ProductVQ) -> None:
        super().__init__()
        self.mixer, self.bottleneck = mixer, bottleneck

    def forward(self, tokens: torch.Tensor, summary: torch.Tensor) -> torch.Tensor:
        """Mix (B, W, D) and (B, U, D) into (B, L, D)."""
        entries: torch.Tensor = self.mixer(tokens, summary)
        quantized: torch.Tensor = self.bottleneck(entries.flatten(0, 1)).quantized
        return quantized.reshape(entries.shape)


def compress_queue(model: Melodi, codec: ProductCodec, *, decay: float) -> ProductVQ:
    """Put a codec where a model writes its queue, and return it as a layer that can learn.

    What is read of the queue within a segment is decoded too. In eval mode the entries have the
    bits of `codec.decode(codec.encode(entries))`.

    Args:
        model: MELODI with a queue; it is changed.
        codec: of its entries.
        decay: of the moving averages that move the codebook in training.
    """
    layer = long_layer(model)
    bottleneck = ProductVQ.from_codec(codec, decay=decay).to(model.embedding.weight.device)
    # The layer calls it, and asks nothing else of it.
    layer.to_long = cast(TokenMixer, CodedEntries(cast(TokenMixer, layer.to_long), bottleneck))
    return bottleneck.train(model.training)


def fit_codec(entries: np.ndarray, rate: int, seed: int) -> ProductCodec:
    """Train a codec of entries (N, D) float32 that takes `rate` times fewer bytes than bfloat16."""
    return ProductCodec.train(
        entries,
        num_subspaces=entries.shape[1] * _BFLOAT16_BYTES // rate,
        codebook_size=_CODEBOOK_SIZE,
        rotation="pca",
        seed=seed,
        dtype="float32",
    )


@torch.no_grad()
def sample_entries(model: Melodi, documents: Ragged, num_entries: int) -> np.ndarray:
    """Return what documents leave in the queue, (N, D) float32, N at most `num_entries`.

    Args:
        model: MELODI with a queue; it is left in eval mode.
        documents: that it reads, one after the other, until there is enough.
        num_entries: enough.
    """
    model.eval()
    found: list[np.ndarray] = []
    for row in range(len(documents)):
        found += _entries(model, documents[row])
        if sum(map(len, found)) >= num_entries:
            break
    return np.concatenate(found)[:num_entries]


def _entries(model: Melodi, document: np.ndarray) -> list[np.ndarray]:
    """Return what the whole windows of a document leave, a queueful at a time."""
    config, found = model.config, []
    whole = len(document) // config.window * config.window
    ids = torch.from_numpy(document[:whole].astype(np.int64)).to(model.embedding.weight.device)
    state = None
    for part in torch.split(ids[None], config.queue_windows * config.window, dim=1):
        if part.shape[1]:
            state = cast(MelodiState, model(part, state).state)
            num_new = part.shape[1] // config.window * config.num_long_tokens
            found.append(state.queue[0, -num_new:].float().cpu().numpy())
    return found


def relative_error(codec: ProductCodec, entries: np.ndarray) -> float:
    """Return what is lost of entries (N, D): squared error over their squared length."""
    lost = codec.decode(codec.encode(entries), dtype="float32") - entries
    return float(np.square(lost, dtype=np.float64).sum() / np.square(entries).sum())


def empty_queue(state: StreamState) -> StreamState:
    """Put zeros in the place of MELODI's queue."""
    if not isinstance(state, MelodiState):
        raise TypeError(f"got {type(state).__name__}, wanted MelodiState: the others have no queue")
    return replace(state, queue=torch.zeros_like(state.queue))


def long_layer(model: Melodi) -> MelodiLayer:
    """Return the layer that writes the queue."""
    stack = model.stack
    if not isinstance(stack, MelodiStack) or stack.long_index < 0:
        raise ValueError("the model has no queue of its own entries")
    layer = stack.layers[stack.long_index]
    return cast(MelodiLayer, layer)
