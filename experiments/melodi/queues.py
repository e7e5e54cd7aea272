"""A queue that is empty, or that holds what codes of its entries decode to."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch

from encoder_jobs.ragged import Ragged
from memstore.codec import ProductCodec
from memstore.models.melodi import Melodi
from memstore.models.melodi_state import MelodiState, StreamState
from memstore.models.vq import ProductVQ

_BFLOAT16_BYTES = 2
_CODEBOOK_SIZE = 256


def compress_queue(model: Melodi, codec: ProductCodec, *, decay: float) -> ProductVQ:
    """Put a codec where a model writes its queue, and return it as a layer that can learn.

    Args:
        model: MELODI with a queue; it is changed.
        codec: of its entries.
        decay: of the moving averages that move the codebook in training.
    """
    quantizer = ProductVQ.from_codec(codec, decay=decay).to(model.embedding.weight.device)
    model.quantize_queue(quantizer)
    return quantizer.train(model.training)


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
