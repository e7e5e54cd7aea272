"""A codec for memories that were decoded elsewhere: a record is the vector's own bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memstore.client.rows import numpy_dtype


@dataclass(frozen=True, slots=True)
class PlainCodec:
    """Lets a decoded memory be a `Memory` like any other; decoding is a cast.

    Attributes:
        dim: D.
        dtype: of the vectors: "bfloat16", "float16" or "float32".
    """

    dim: int
    dtype: str

    @property
    def id(self) -> str:
        """`plain-<dtype>-<D>`: all that this codec is made of."""
        return f"plain-{self.dtype}-{self.dim}"

    @property
    def record_words(self) -> int:
        """16-bit words in a vector."""
        return self.dim * numpy_dtype(self.dtype).itemsize // 2

    @property
    def needs_token_ids(self) -> bool:
        """False."""
        return False

    def encode(
        self,
        vectors: np.ndarray,
        token_ids: np.ndarray | None = None,
        offsets: np.ndarray | None = None,
    ) -> np.ndarray:
        """(T, D) vectors to (T, W) uint16: their bits in this codec's dtype."""
        return np.ascontiguousarray(vectors, dtype=numpy_dtype(self.dtype)).view(np.uint16)

    def decode(
        self,
        records: np.ndarray,
        offsets: np.ndarray | None = None,
        *,
        dtype: str = "float32",
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """(T, W) uint16 bits to (T, D) vectors of `dtype`."""
        vectors = records.view(numpy_dtype(self.dtype))  # (T, D)
        if out is None:
            return vectors.astype(numpy_dtype(dtype))
        np.copyto(out, vectors, casting="unsafe")
        return out
