"""Memory encoder, codebook and reader trained together, as LUMEN-VQ is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from experiments.minilm_reader.batches import Batch
from experiments.minilm_reader.material import NO_PASSAGE, Material
from experiments.minilm_reader.reading import HAS_BFLOAT16
from memstore.models.extractive import ExtractiveLumen
from memstore.models.vq import ProductVQ

_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True, eq=False)
class LiveMemories:
    """Makes the memories of a batch by the model's own memory encoder, through the bottleneck.

    Attributes:
        bottleneck: None: none.
    """

    model: ExtractiveLumen
    material: Material
    bottleneck: ProductVQ | None

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return (B, K, P, D), with a gradient if the memory encoder has one."""
        passages = np.unique(batch.passages.numpy())
        passages = passages[passages != NO_PASSAGE]
        memories, offsets = encode(self.model, self.material, passages)
        if self.bottleneck is not None:
            rows = np.concatenate([self._rows(each) for each in passages])
            ids = torch.from_numpy(self.material.token_ids[rows])
            memories = self.bottleneck(memories, ids, torch.from_numpy(offsets)).quantized
        # Where a passage's rows lie here instead of among those of all passages.
        shift = np.zeros(len(self.material.articles) + 1, np.int64)  # the last for NO_PASSAGE
        shift[passages] = offsets[:-1] - self.material.offsets[passages]
        local = batch.rows + torch.from_numpy(shift)[batch.passages][..., None]
        return memories[local.masked_fill(~batch.memory_mask, 0)]

    def _rows(self, passage: int) -> np.ndarray:
        return np.arange(*self.material.offsets[passage : passage + 2])


def encode(
    model: ExtractiveLumen, material: Material, passages: np.ndarray
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the memories of passages one after another, (T, D) float32, and (P + 1,) offsets."""
    lengths = np.diff(material.offsets)[passages]
    mask = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    rows = [material.token_ids[slice(*material.offsets[each : each + 2])] for each in passages]
    ids[mask] = torch.from_numpy(np.concatenate(rows))
    with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
        memories = model.encode_memories(ids, mask)
    return memories[mask].float(), np.cumsum([0, *lengths])


@torch.inference_mode()
def encode_all(model: ExtractiveLumen, material: Material) -> np.ndarray:
    """Return (T, D) float32: the memories of every passage."""
    parts = [
        encode(model, material, np.arange(start, min(start + _BATCH_SIZE, len(material.articles))))
        for start in range(0, len(material.articles), _BATCH_SIZE)
    ]
    return torch.cat([memories for memories, _ in parts]).numpy()
