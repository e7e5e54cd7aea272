"""Exact match and the paired bootstrap, against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.lumen_vq.statistics import exact_match, from_text, relative_loss, to_text


def test_exact_match_stops_at_the_end_of_the_answer():
    """Padding and what is generated after END do not count; a missing END does."""
    answers = np.array([[5, 6, 1, 0], [5, 6, 1, 0], [5, 6, 1, 0], [5, 6, 1, 0]])
    predicted = np.array([[5, 6, 1, 9, 1], [5, 6, 1, 0, 0], [5, 6, 0, 0, 0], [5, 7, 1, 0, 0]])
    assert exact_match(predicted, answers).tolist() == [True, True, False, False]


def test_an_arm_equal_to_its_baseline_loses_nothing_for_certain():
    """Pairing takes away all that both have in common."""
    right = np.random.default_rng(0).random((3, 500)) < 0.7
    loss = relative_loss(right, right)
    assert (loss.value, loss.lower, loss.upper) == (0, 0, 0)


def test_the_loss_is_relative_to_the_baseline():
    """One right answer in ten gone is a loss of a tenth, whatever is right at first."""
    baseline = np.zeros((1, 1000), bool)
    baseline[:, :500] = True
    arm = baseline.copy()
    arm[:, :50] = False
    assert relative_loss(arm, baseline).value == pytest.approx(0.1)


def test_the_interval_is_that_of_the_normal_approximation():
    """With many questions and one seed, the bootstrap agrees with the delta method."""
    rng = np.random.default_rng(1)
    baseline = rng.random((1, 20_000)) < 0.75
    arm = baseline ^ (rng.random((1, 20_000)) < 0.04)
    loss = relative_loss(arm, baseline)
    ratio = arm.mean() / baseline.mean()
    error = np.std(arm[0] - ratio * baseline[0]) / baseline.mean() / np.sqrt(20_000)
    assert loss.upper - loss.value == pytest.approx(1.96 * error, rel=0.05)
    assert loss.value - loss.lower == pytest.approx(1.96 * error, rel=0.05)


def test_seeds_that_disagree_widen_the_interval():
    """The seeds are drawn anew too: a loss under one seed only is not sure."""
    baseline = np.ones((4, 2000), bool)
    even, uneven = baseline.copy(), baseline.copy()
    even[:, :20] = False
    uneven[0, :80] = False
    steady, unsteady = relative_loss(even, baseline), relative_loss(uneven, baseline)
    assert steady.value == pytest.approx(unsteady.value)
    assert unsteady.upper - unsteady.lower > 2 * (steady.upper - steady.lower)


def test_outcomes_that_cannot_be_compared_are_refused():
    """Other questions, or a baseline with nothing right, are said."""
    with pytest.raises(ValueError, match="wanted"):
        relative_loss(np.ones((1, 3), bool), np.ones((1, 4), bool))
    with pytest.raises(ValueError, match="nothing right"):
        relative_loss(np.ones((1, 3), bool), np.zeros((1, 3), bool))


def test_outcomes_survive_as_text():
    """Bits that do not fill a byte come back too."""
    right = np.random.default_rng(2).random(1003) < 0.5
    assert np.array_equal(from_text(to_text(right), 1003), right)
