"""Which passages go through the model together, and how a batch is padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def plan_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group sequences of like length, so that little is padded; a function of the lengths alone.

    Longest first, ties in the order given: a batch that does not fit in memory fails at once, not
    after an hour.

    Args:
        lengths: tokens of each sequence.
        token_budget: most padded tokens in a batch; a longer sequence has a batch to itself.

    Returns:
        Batches of positions in `lengths`; every position is in one.
    """
    batches: list[list[int]] = []
    capacity = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or len(batches[-1]) == capacity:
            batches.append([])
            capacity = max(1, token_budget // max(1, lengths[row]))  # the first is the longest
        batches[-1].append(row)
    return batches


def pad(sequences: Sequence[np.ndarray], pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Stack sequences of token ids to the longest of them.

    Args:
        sequences: B arrays (T_i,) of integers.
        pad_token_id: fills the rest of a row.

    Returns:
        Ids (B, max T_i) int64, and a mask (B, max T_i) int64 that is 1 on tokens.
    """
    shape = (len(sequences), max(len(ids) for ids in sequences))
    ids = np.full(shape, pad_token_id, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
