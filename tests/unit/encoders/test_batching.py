"""Batches are full, of like length, and a function of the lengths."""

from __future__ import annotations

import numpy as np

from memstore.encoders.batching import pad, plan_batches


def test_every_row_is_in_one_batch_within_the_budget() -> None:
    """No row is lost or doubled, and no padded batch exceeds the budget."""
    lengths = np.random.default_rng(0).integers(1, 60, 500).tolist()

    batches = plan_batches(lengths, 256)

    assert sorted(row for batch in batches for row in batch) == list(range(500))
    assert max(len(batch) * max(lengths[row] for row in batch) for batch in batches) <= 256


def test_batches_run_from_long_to_short_and_keep_the_order_of_equals() -> None:
    """Ties stay in the order given, so that the plan is one for one input."""
    assert plan_batches([3, 9, 3, 9, 3], 9) == [[1], [3], [0, 2, 4]]


def test_sequence_over_the_budget_goes_alone() -> None:
    """A long window is encoded, not refused."""
    assert plan_batches([2, 50, 2], 10) == [[1], [0, 2]]


def test_nothing_gives_no_batch() -> None:
    """An empty partition is no error."""
    assert plan_batches([], 10) == []


def test_padding_fills_to_the_longest() -> None:
    """Pad ids stand where the mask is 0, and nowhere else."""
    ids, mask = pad([np.array([5, 6, 7]), np.array([8])], 1)

    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
