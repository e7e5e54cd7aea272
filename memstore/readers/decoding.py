"""From the records of many passages to one padded tensor on the reader's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import torch

from memstore.codec import ProductCodec
from memstore.errors import CodecMismatchError, ConfigError
from memstore.models.folding import rotation_digest
from memstore.models.lumen_config import LumenConfig
from memstore.types import Memory

if TYPE_CHECKING:
    from memstore.codec.kernels.gpu import GpuCodec

_DTYPES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}


@dataclass(frozen=True, slots=True, eq=False)
class PaddedMemories:
    """The memories of B questions' passages, side by side.

    Attributes:
        vectors: (B, K, P, D); what lies outside the mask may be anything.
        mask: (B, K, P) bool.
    """

    vectors: torch.Tensor
    mask: torch.Tensor


class MemoryDecoder:
    """Decodes for one model. On a GPU the codec runs there, and only records travel to it.

    Args:
        config: of the model: its width, and the rotation that it has folded in.
        device, dtype: of the model.

    Raises:
        ConfigError: if no codec decodes to this dtype.
    """

    def __init__(self, config: LumenConfig, device: torch.device, dtype: torch.dtype) -> None:
        if dtype not in _DTYPES:
            raise ConfigError(
                f"dtype: the model is of {dtype}, wanted {' or '.join(_DTYPES.values())}"
            )
        self._dim, self._rotation = config.dim, config.rotation_sha256
        self._device, self._dtype = device, dtype
        self._known_rotations: set[str] = set()
        self._gpu_codec: GpuCodec | None = None

    def decode(self, memories: Sequence[Sequence[Memory]]) -> PaddedMemories:
        """Decode the memories of each question's passages.

        Args:
            memories: of B questions, of up to K passages each, as wide as the model; K may be 0, a
                passage may have no token.

        Raises:
            CodecMismatchError: if the model has the rotation of another codec folded in.
            CorruptionError: if a record is damaged.
        """
        flat = list(chain.from_iterable(memories))
        codecs = {memory.codec.id: memory.codec for memory in flat}
        if self._rotation:
            for codec_id in codecs.keys() - self._known_rotations:
                self._check_rotation(codecs[codec_id])
                self._known_rotations.add(codec_id)
        mask = _mask([[memory.num_tokens for memory in row] for row in memories])
        shared = next(iter(codecs.values())) if len(codecs) == 1 else None
        if self._device.type == "cuda" and isinstance(shared, ProductCodec):
            vectors = self._on_gpu(shared, flat, mask.to(self._device))
        else:
            vectors = self._on_cpu(memories, mask).to(self._device)
        return PaddedMemories(vectors, mask.to(self._device))

    def _on_cpu(self, memories: Sequence[Sequence[Memory]], mask: torch.Tensor) -> torch.Tensor:
        """Let the codec write every passage to where it is read."""
        vectors = torch.empty((*mask.shape, self._dim), dtype=self._dtype)
        for places, row in zip(vectors, memories, strict=True):
            for place, memory in zip(places, row, strict=False):
                self._fill(place[: memory.num_tokens], memory)
        return vectors

    def _fill(self, place: torch.Tensor, memory: Memory) -> None:
        codec, dtype, out = memory.codec, _DTYPES[self._dtype], _array(place)
        if self._rotation and isinstance(codec, ProductCodec):
            codec.decode(memory.records, dtype=dtype, out=out, rotated=True)
        else:
            codec.decode(memory.records, dtype=dtype, out=out)

    def _on_gpu(
        self, codec: ProductCodec, memories: Sequence[Memory], mask: torch.Tensor
    ) -> torch.Tensor:
        from memstore.codec.kernels.gpu import GpuCodec

        if self._gpu_codec is None or self._gpu_codec.codec.id != codec.id:
            self._gpu_codec = GpuCodec(codec, str(self._device))
        records = np.concatenate([memory.records for memory in memories]).view(np.int16)
        offsets = [0, *accumulate(memory.num_tokens for memory in memories)]
        vectors = torch.empty((*mask.shape, self._dim), dtype=self._dtype, device=self._device)
        vectors[mask] = self._gpu_codec.decode(
            torch.from_numpy(records).to(self._device),
            torch.tensor(offsets, device=self._device),
            dtype=_DTYPES[self._dtype],
            rotated=bool(self._rotation),
        )
        return vectors

    def _check_rotation(self, codec: object) -> None:
        rotation = codec.rotation if isinstance(codec, ProductCodec) else None
        if rotation is None or rotation_digest(rotation.matrix()) != self._rotation:
            got = "another rotation" if rotation is not None else "none, or came decoded"
            raise CodecMismatchError(
                f"memories: the reader has a codec's rotation {self._rotation[:16]}… folded in, "
                f"but they have {got}; ask for the codes of that codec, or take the reader that "
                "this one was folded from"
            )


def _mask(num_tokens: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return (B, K, P) bool, True for a token, from the number of tokens of each passage."""
    num_passages = max(map(len, num_tokens), default=0)
    lengths = torch.zeros(len(num_tokens), num_passages, dtype=torch.int64)
    for place, counts in zip(lengths, num_tokens, strict=True):
        place[: len(counts)] = torch.tensor(counts, dtype=torch.int64)
    longest = int(lengths.max()) if lengths.numel() else 0
    return torch.arange(longest) < lengths.unsqueeze(2)


def _array(place: torch.Tensor) -> np.ndarray:
    """View a tensor as an array; torch gives no bfloat16 to NumPy: same bits, told so."""
    if place.dtype == torch.bfloat16:
        bits: np.ndarray = place.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray = place.numpy()
    return array
