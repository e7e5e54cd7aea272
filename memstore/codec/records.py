"""How codes lie in a record of W 16-bit words.

A code takes 16 bits, one word; or 8 bits if the codebook has at most 256 centroids: then two share
a word, the first in its low byte, and the pad byte of an odd number of codes is zero. Words for a
token id and for a norm follow the codes in formats that have them; this one has none, and a reader
refuses what it does not know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memstore.errors import CorruptionError


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """Where the codes of one token are.

    Attributes:
        num_codes: codes in a record, M.
        code_bits: 8 or 16.
    """

    num_codes: int
    code_bits: int

    @classmethod
    def for_codebook(cls, num_subspaces: int, codebook_size: int) -> RecordLayout:
        """Return the layout of one code a subspace."""
        return cls(num_subspaces, 8 if codebook_size <= 256 else 16)

    @property
    def num_words(self) -> int:
        """W, 16-bit words in a record."""
        return -(-self.num_codes * self.code_bits // 16)

    def empty(self, num_records: int) -> np.ndarray:
        """Return (num_records, W) uint16 records: codes to be filled in, pad zero."""
        make = np.zeros if self._num_pad_bytes else np.empty
        return make((num_records, self.num_words), np.uint16)

    def codes(self, records: np.ndarray) -> np.ndarray:
        """View (N, W) records as their (N, at least M) codes, uint8 or uint16."""
        if self.code_bits == 16:
            return records
        return records.view(np.uint8)  # memory is little-endian, like the format

    def check_pad(self, records: np.ndarray) -> None:
        """Refuse records whose pad byte is not zero.

        Raises:
            CorruptionError: with the first such row.
        """
        if self._num_pad_bytes:
            bad_rows = np.flatnonzero(self.codes(records)[:, self.num_codes])
            if len(bad_rows):
                raise CorruptionError(
                    f"record {bad_rows[0]}: the pad byte after {self.num_codes} codes is not zero; "
                    "the records are damaged or of another codec",
                    row=bad_rows[0],
                )

    @property
    def _num_pad_bytes(self) -> int:
        return 2 * self.num_words - self.num_codes * self.code_bits // 8
