"""Memory encoder and codebook in training: memories that are made anew in every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from experiments.minilm_reader.batches import Batch
from experiments.minilm_reader.material import NO_PASSAGE, Material
from experiments.minilm_reader.reading import HAS_BFLOAT16, Training
from memstore.codec.passages import rows_of
from memstore.models.extractive import ExtractiveLumen
from memstore.models.vq import ProductVQ

_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True, eq=False)
class LiveMemories:
    """Makes memories by the model's own memory encoder, through the bottleneck.

    Attributes:
        bottleneck: None: none.
    """

    model: ExtractiveLumen
    material: Material
    bottleneck: ProductVQ | None

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return a batch's (B, K, P, D), with a gradient if the memory encoder has one."""
        passages = np.unique(batch.passages.numpy())
        passages = passages[passages != NO_PASSAGE]
        memories, offsets = self.of(passages)
        # Where a passage's rows lie here instead of among those of all passages.
        shift = np.zeros(len(self.material.articles) + 1, np.int64)  # the last for NO_PASSAGE
        shift[passages] = offsets[:-1] - self.material.offsets[passages]
        local = batch.rows + torch.from_numpy(shift)[batch.passages][..., None]
        return memories[local.masked_fill(~batch.memory_mask, 0)]

    def of(self, passages: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Return the memories of passages, one after another: (T, D), and (P + 1,) offsets."""
        rows, offsets = rows_of(self.material.offsets, passages)
        ids = torch.from_numpy(self.material.token_ids[rows])
        memories = encode(self.model, ids, offsets)
        if self.bottleneck is not None:
            memories = self.bottleneck(memories, ids, torch.from_numpy(offsets)).quantized
        return memories, offsets


def encode(model: ExtractiveLumen, ids: torch.Tensor, offsets: np.ndarray) -> torch.Tensor:
    """Return the memories of passages, (T, D) float32, from (T,) int64 ids, (P + 1,) offsets."""
    mask = _mask(offsets)
    padded = torch.zeros(mask.shape, dtype=torch.int64)
    padded[mask] = ids
    with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
        return model.encode_memories(padded, mask)[mask].float()


@torch.inference_mode()
def encode_all(model: ExtractiveLumen, token_ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return (T, D) float16: the memories of every passage."""
    memories = []
    for start in range(0, len(offsets) - 1, _BATCH_SIZE):
        ends = offsets[start : start + _BATCH_SIZE + 1]
        ids = torch.from_numpy(token_ids[ends[0] : ends[-1]].astype(np.int64))
        memories.append(encode(model, ids, ends - ends[0]).half())
    return torch.cat(memories).numpy()


def keep_pooled(
    live: LiveMemories, training: Training, num_passages: int, rng: np.random.Generator
) -> dict[str, float]:
    """Train memory encoder and codebook so that the live layers' pooled vectors stay as they were.

    What is wanted of each passage is the vector that the live layers make of its raw memory; they
    are frozen themselves, and there are no labels.

    Returns:
        "steps", and "loss", the mean of 1 - cosine over the last tenth of them.
    """
    model, material = live.model, live.material
    model.requires_grad_(False)
    parameters = list(model.memory_encoder.layers.parameters())
    for each in parameters:
        each.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=training.memory_rate, fused=True)
    order = rng.permutation(len(material.articles))[:num_passages]
    losses = []
    for passages in np.array_split(order, max(1, len(order) // training.batch_size)):
        rows, offsets = rows_of(material.offsets, passages)
        raw = torch.from_numpy(material.memories[rows]).float()
        with torch.no_grad():
            wanted = pool(model, raw, offsets)
        found = pool(model, live.of(passages)[0], offsets)
        loss = 1 - functional.cosine_similarity(found, wanted).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return {"steps": len(losses), "loss": float(np.mean(losses[-max(1, len(losses) // 10) :]))}


def pool(model: ExtractiveLumen, memories: torch.Tensor, offsets: np.ndarray) -> torch.Tensor:
    """Return (P, D) float32: each passage's mean over its tokens after the live layers."""
    mask = _mask(offsets)
    states = memories.new_zeros(*mask.shape, memories.shape[1]).masked_scatter(
        mask[:, :, None], memories
    )
    bias = torch.where(mask, 0.0, torch.finfo(torch.float32).min)[:, None, None]
    with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
        for layer in model.live:
            states = layer(states, bias)
    return (states.float() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def _mask(offsets: np.ndarray) -> torch.Tensor:
    lengths = np.diff(offsets)
    return torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])
