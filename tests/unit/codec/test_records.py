"""Codes in 16-bit words."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.codec.records import RecordLayout
from memstore.errors import CorruptionError


@pytest.mark.parametrize(
    ("num_subspaces", "codebook_size", "num_words"),
    [(1, 2, 1), (5, 256, 3), (48, 256, 24), (1, 257, 1), (24, 65_536, 24)],
)
def test_a_record_has_as_few_words_as_its_codes_need(
    num_subspaces: int, codebook_size: int, num_words: int
) -> None:
    """Two codes share a word up to 256 centroids; beyond, each has one."""
    assert RecordLayout.for_codebook(num_subspaces, codebook_size).num_words == num_words


def test_two_small_codes_share_a_word_low_byte_first() -> None:
    """The order of bytes is part of the format."""
    layout = RecordLayout.for_codebook(3, 256)
    records = layout.empty(1)

    layout.codes(records)[0, :3] = [0x11, 0x22, 0x33]

    assert records.tolist() == [[0x2211, 0x0033]]


def test_large_codes_are_the_words_themselves() -> None:
    """With 16-bit codes nothing is packed, and nothing copied."""
    layout = RecordLayout.for_codebook(2, 1000)
    records = layout.empty(4)

    assert layout.codes(records) is records


def test_a_pad_byte_that_is_not_zero_is_refused() -> None:
    """The byte that no code uses is checked, or a flipped bit there would go unseen."""
    layout = RecordLayout.for_codebook(3, 256)
    records = layout.empty(5)
    records[3, 1] = 0x0100

    with pytest.raises(CorruptionError, match="record 3: the pad byte"):
        layout.check_pad(records)


def test_an_even_number_of_codes_has_no_pad() -> None:
    """All bytes are codes, so any are accepted."""
    RecordLayout.for_codebook(4, 256).check_pad(np.full((2, 2), 0xFFFF, np.uint16))
