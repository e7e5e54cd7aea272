"""How an entry of the queue is kept: as the model made it, or as a record of a codec."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from memstore.errors import CodecMismatchError
from memstore.types import Codec


class RowFormat(Protocol):
    """Entries to rows of bytes and back."""

    @property
    def codec_id(self) -> str:
        """Of the codec; empty: none."""
        ...

    @property
    def row_bytes(self) -> int:
        """Bytes of an entry."""
        ...

    def pack(self, entries: torch.Tensor) -> np.ndarray:
        """Return (T, row bytes) uint8 of entries (T, D)."""
        ...

    def unpack(self, rows: np.ndarray) -> torch.Tensor:
        """Return the entries (T, D) of rows (T, row bytes) uint8."""
        ...


class PlainRows:
    """An entry's own bits.

    Args:
        dim: D.
        dtype: of the model.
    """

    codec_id = ""

    def __init__(self, dim: int, dtype: torch.dtype) -> None:
        self._dim, self._dtype = dim, dtype
        self.row_bytes = dim * dtype.itemsize

    def pack(self, entries: torch.Tensor) -> np.ndarray:
        """See `RowFormat`."""
        return to_bytes(entries).reshape(len(entries), self.row_bytes)

    def unpack(self, rows: np.ndarray) -> torch.Tensor:
        """See `RowFormat`."""
        return from_bytes(rows, self._dtype).reshape(len(rows), self._dim)


class CodecRows:
    """An entry's record; what comes back is what the codec makes of it.

    Args:
        codec: of width D.
        dim: D.
        dtype: of the model.

    Raises:
        CodecMismatchError: if the codec is for other vectors.
    """

    def __init__(self, codec: Codec, dim: int, dtype: torch.dtype) -> None:
        if codec.dim != dim or codec.needs_token_ids:
            wants = "token ids" if codec.needs_token_ids else f"vectors of width {codec.dim}"
            raise CodecMismatchError(
                f"codec {codec.id[:16]}… wants {wants}; the queue's entries are of width {dim} and "
                "no token's: train one on a sample of them (memstore session sample)",
                codec=codec.id,
            )
        self._codec, self._dtype = codec, dtype
        self.codec_id = codec.id
        self.row_bytes = 2 * codec.record_words

    def pack(self, entries: torch.Tensor) -> np.ndarray:
        """See `RowFormat`."""
        vectors = np.ascontiguousarray(entries.detach().cpu().float().numpy())
        records = np.ascontiguousarray(self._codec.encode(vectors), dtype="<u2")
        return records.view(np.uint8)

    def unpack(self, rows: np.ndarray) -> torch.Tensor:
        """See `RowFormat`."""
        records = np.ascontiguousarray(rows).view("<u2")
        return torch.from_numpy(self._codec.decode(records)).to(self._dtype)


def to_bytes(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's bits, (bytes,) uint8."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()


def from_bytes(data: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Return the flat tensor whose bits these are, a copy, aligned as torch aligns."""
    return torch.tensor(data.reshape(-1)).view(dtype)
