"""Means and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from memstore.errors import ShapeError
from memstore.evaluation import bootstrap_interval
from memstore.evaluation.scores import score


def test_the_interval_is_that_of_the_normal_law_for_many_values() -> None:
    """Mean ± 1.96 standard errors, to a twentieth of its width."""
    values = np.random.default_rng(0).normal(0.5, 0.1, 4_000)
    error = values.std() / np.sqrt(len(values))

    low, high = bootstrap_interval(values)

    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_equal_values_have_no_interval_to_speak_of() -> None:
    """One value is its own mean whatever is drawn."""
    assert bootstrap_interval(np.array([0.25, 0.25, 0.25])) == (0.25, 0.25)
    assert bootstrap_interval(np.array([0.5])) == (0.5, 0.5)


def test_resamples_of_one_seed_draw_the_same_rows() -> None:
    """Of a shifted copy, both ends are shifted: two systems can be compared by query."""
    values = np.random.default_rng(1).random(50)
    low, high = bootstrap_interval(values)

    assert bootstrap_interval(values + 1) == pytest.approx((low + 1, high + 1))
    assert bootstrap_interval(values, seed=1) != (low, high)


@pytest.mark.parametrize("values", [[], [[0.5]], [0.5, float("nan")]])
def test_what_has_no_mean_is_refused(values: list[object]) -> None:
    """Nothing, a table, and what is not a number."""
    with pytest.raises(ShapeError, match="wanted \\(Q,\\) finite values"):
        bootstrap_interval(np.array(values))


def test_a_score_holds_its_values_and_their_mean() -> None:
    """And gives the mean and the interval as JSON values."""
    found = score("EM", np.array([0, 1, 1, 0]))

    assert (found.measure, found.mean) == ("EM", 0.5)
    assert found.values.dtype == np.float64
    assert found.to_dict() == {"mean": 0.5, "low": found.low, "high": found.high}
    assert 0 <= found.low < 0.5 < found.high <= 1
