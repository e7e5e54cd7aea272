"""How the words of a record are used: W 16-bit words a token.

First the codes. A code takes 16 bits, one word; or 8 bits if the codebook has at most 256
centroids: then two share a word, the first in its low byte, and the pad byte of an odd number of
codes is zero. Then the token id, if the codec predicts from it: one word, or two, the low one
first, if the vocabulary has more than 65,536 ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memstore.errors import CorruptionError


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """Where the codes and the token id of one token are.

    Attributes:
        num_codes: codes in a record, M.
        code_bits: 8 or 16.
        token_id_words: 0, 1 or 2.
    """

    num_codes: int
    code_bits: int
    token_id_words: int = 0

    @classmethod
    def for_codebook(
        cls, num_subspaces: int, codebook_size: int, vocabulary_size: int = 0
    ) -> RecordLayout:
        """Return the layout of one code a subspace, and an id below `vocabulary_size`, if any."""
        return cls(
            num_subspaces,
            8 if codebook_size <= 256 else 16,
            (vocabulary_size > 0) + (vocabulary_size > 1 << 16),
        )

    @property
    def num_code_words(self) -> int:
        """Words that hold codes: they come first."""
        return -(-self.num_codes * self.code_bits // 16)

    @property
    def num_words(self) -> int:
        """W, 16-bit words in a record."""
        return self.num_code_words + self.token_id_words

    def empty(self, num_records: int) -> np.ndarray:
        """Return (num_records, W) uint16 records: codes to be filled in, pad zero."""
        make = np.zeros if self._num_pad_bytes else np.empty
        return make((num_records, self.num_words), np.uint16)

    def codes(self, records: np.ndarray) -> np.ndarray:
        """View (N, W) records as (N, at least M) codes, uint8 or uint16: the first M are codes."""
        if self.code_bits == 16:
            return records
        return records.view(np.uint8)  # memory is little-endian, like the format

    def token_ids(self, records: np.ndarray) -> np.ndarray:
        """Return the (N,) int64 token ids of (N, W) records."""
        words = records[:, self.num_code_words :].astype(np.int64)
        low = words[:, 0]
        return low if self.token_id_words == 1 else low | words[:, 1] << 16

    def put_token_ids(self, records: np.ndarray, token_ids: np.ndarray) -> None:
        """Write the ids into (N, W) records."""
        for word in range(self.token_id_words):
            part = token_ids.astype(np.int64) >> 16 * word
            records[:, self.num_code_words + word] = part & 0xFFFF

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
        return 2 * self.num_code_words - self.num_codes * self.code_bits // 8
