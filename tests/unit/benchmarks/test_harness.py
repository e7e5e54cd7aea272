"""Gates, turns and figures of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.harness import Figure, GateError, check, measure, percentile, quotient, rate, spread


class _Steps:
    """A clock that runs only while a function is called: by 1 s for "a", by 3 s for "b"."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def function(self, name: str, seconds: float) -> Callable[[int], None]:
        def once(_turn: int) -> None:
            self.called.append(name)
            self.now += seconds

        return once


def test_every_function_is_called_once_a_turn_and_none_always_follows_the_same_one() -> None:
    """What slows the machine for a while falls on all of them; so do warm caches."""
    steps = _Steps()
    functions = {name: steps.function(name, 1.0) for name in "abc"}

    measure(functions, rounds=5, calls=10, warmups=1, timer=lambda: steps.now)

    turns = ["".join(steps.called[start : start + 3]) for start in range(0, len(steps.called), 3)]
    assert turns[0] == "abc"  # the warm-up
    assert len(turns) == 51
    assert {"".join(sorted(turn)) for turn in turns} == {"abc"}
    assert set(turns[1:]) == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_times_are_kept_by_function_round_and_call() -> None:
    """Warm-ups do not count."""
    steps = _Steps()
    functions = {"a": steps.function("a", 1.0), "b": steps.function("b", 3.0)}

    seconds = measure(functions, rounds=2, calls=3, warmups=2, timer=lambda: steps.now)

    np.testing.assert_array_equal(seconds["a"], np.ones((2, 3)))
    np.testing.assert_array_equal(seconds["b"], np.full((2, 3), 3.0))


def test_a_function_is_told_the_number_of_the_turn() -> None:
    """So that each turn can ask something else, and all functions the same."""
    turns: dict[str, list[int]] = {"a": [], "b": []}
    functions = {"a": turns["a"].append, "b": turns["b"].append}

    measure(functions, rounds=2, calls=2, warmups=0)

    assert turns == {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}


def test_gates_that_hold_are_named() -> None:
    """The names go into the result."""
    assert check({"one": lambda: True, "two": lambda: True}) == ["one", "two"]


def test_a_gate_that_fails_stops_everything_and_is_named() -> None:
    """Later gates are not tried."""
    tried: list[str] = []

    with pytest.raises(GateError, match="answers differ"):
        check({"answers differ": lambda: False, "later": lambda: bool(tried.append("later"))})

    assert tried == []


def test_spread_is_median_least_and_greatest() -> None:
    """An outlier shows in the spread, not in the value."""
    assert spread([5.0, 1.0, 2.0], "ms") == Figure(2.0, 1.0, 5.0, "ms", 3)


def test_a_percentile_is_over_all_calls_and_its_spread_over_rounds() -> None:
    """In milliseconds."""
    seconds = np.array([[0.001, 0.002, 0.003], [0.004, 0.005, 0.006]])

    figure = percentile(seconds, 50)

    assert (figure.value, figure.low, figure.high) == pytest.approx((3.5, 2.0, 5.0))
    assert (figure.unit, figure.rounds) == ("ms", 2)


def test_a_rate_counts_what_all_calls_of_a_round_did() -> None:
    """Two calls of 10 things in 4 s are 5 a second."""
    assert rate(np.array([[1.0, 3.0], [1.0, 1.0]]), 10, "/s") == Figure(7.5, 5.0, 10.0, "/s", 2)


def test_a_quotient_is_taken_round_by_round() -> None:
    """A slow round that slows both ways leaves the ratio alone."""
    figure = quotient(np.array([[1.0], [10.0]]), np.array([[2.0], [20.0]]))

    assert figure == Figure(0.5, 0.5, 0.5, "", 2)
