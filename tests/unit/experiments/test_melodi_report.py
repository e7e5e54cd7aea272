"""The report judges the targets by made-up rows, and intervals hold what they should."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.melodi.arms import (
    LONGER,
    MELODI,
    MEMORIZING,
    NO_QUEUE,
    SMALL,
    TRANSFORMER_XL,
    UNBRANCHED,
    ZEROED,
    joint,
    post_hoc,
)
from experiments.melodi.report import report
from experiments.melodi.statistics import perplexity, relative_change
from experiments.statistics import from_text, mean, to_text

DOCUMENTS, POSITIONS = 30, 6
COUNTS = np.full((DOCUMENTS, POSITIONS), 1000)
NOISE = np.random.default_rng(0).normal(0, 0.2, DOCUMENTS)
LANGUAGE = {
    TRANSFORMER_XL: (1.60, 65_536),
    MEMORIZING: (1.55, 589_824),
    MELODI: (1.54, 73_728),
    SMALL: (1.57, 45_056),
    UNBRANCHED: (1.56, 73_728),
    ZEROED: (1.58, 73_728),
    NO_QUEUE: (1.56, 40_960),
    post_hoc(8): (1.57, 73_728),
    LONGER: (1.53, 73_728),
    joint(8): (1.535, 73_728),
}
RECALL = {TRANSFORMER_XL: 3, MEMORIZING: 99, MELODI: 95, ZEROED: 4}


def language_row(arm: str, loss: float, floats: int, seed: int, near: float = 1.7) -> dict:
    """Return a row; window 0 costs every arm the same, later ones the loss given."""
    jitter = np.random.default_rng([seed, floats]).normal(0, 1e-4, DOCUMENTS)
    losses = np.full((DOCUMENTS, POSITIONS), loss) + (NOISE + jitter)[:, None]
    losses[:, 0] += near - loss
    return {
        "task": "language",
        "arm": arm,
        "seed": seed,
        "weights": 900_000,
        "memory_floats": {"paper": floats, "embeddings": floats // 2, "stored": floats},
        "memory_bytes": 2 * floats,
        "num_documents": DOCUMENTS,
        "losses": to_text(losses * COUNTS),
        "counts": to_text(COUNTS),
        **({"error": 0.1} if arm.startswith("queue 8x") else {}),
    }


def all_rows(**changes: tuple[float, int]) -> list[dict]:
    """Return rows of all arms; some with other losses."""
    language = [
        language_row(arm, *(changes.get(arm, each)), seed=seed)
        for arm, each in LANGUAGE.items()
        for seed in range(3)
    ]
    recall = [
        {
            "task": "recall",
            "arm": arm,
            "seed": seed,
            "right": {"1": [[50] * 8, [50] * 8], "16": [[right] * 8, [100] * 8]},
            "passkeys": {"16": [[right > 50] * 8, [1] * 8]},
        }
        for arm, right in RECALL.items()
        for seed in range(3)
    ]
    return [*language, *recall]


def line_with(text: str, part: str) -> str:
    """Return the one target that says this."""
    (line,) = (each for each in text.splitlines() if each.startswith("- ") and part in each)
    return line


def test_targets_that_hold_are_told_from_those_that_do_not():
    """A cost of 3 % is more than 1 %, one of half a per cent is not."""
    text = report(all_rows())
    assert line_with(text, f"{MELODI} keeps 0.12").endswith(": yes")
    assert line_with(text, f"{MELODI}'s perplexity").endswith(": yes")
    assert line_with(text, f"{SMALL} keeps 0.69").endswith(": yes")
    assert line_with(text, f"{post_hoc(8)} costs").endswith("**no**")
    assert line_with(text, f"{joint(8)} costs").endswith(": yes")
    assert line_with(text, "the queue is used").endswith(": yes")
    assert line_with(text, "the queue is worth having").endswith(": yes")
    assert line_with(text, "branching lowers").endswith(": yes")
    assert line_with(text, "grows with position").endswith(": yes")
    assert line_with(text, f"{MELODI} recalls 95.0 %").endswith(": yes")
    assert line_with(text, f"{ZEROED} recalls 4.0 %").endswith(": yes")
    worse = report(all_rows(**{MELODI: (1.59, 300_000)}))
    assert line_with(worse, f"{MELODI} keeps 0.51").endswith("**no**")
    assert line_with(worse, f"{MELODI}'s perplexity").endswith("**no**")
    assert line_with(worse, "the queue is used").endswith("**no**")
    few = report([row for row in all_rows() if (row["arm"] == MELODI) == (row["seed"] == 0)])
    assert f"{MELODI}'s perplexity" not in few  # no seed of both


def test_tables_show_perplexity_by_arm_and_position():
    """Perplexity is that of the losses; all positions have a column."""
    text = report(all_rows())
    assert "| window 0 | window 1 | window 2-3 | window 4-7 |" in text
    assert "+0.42 % [" in text
    assert "| documents | 30 |" in text


def test_an_interval_of_what_is_paired_is_narrow():
    """Documents differ by far more than arms do; the difference is found all the same."""
    rng = np.random.default_rng(1)
    counts = rng.integers(500, 1500, 40)
    base = (1.5 + rng.normal(0, 0.3, 40)) * counts * np.ones((3, 1))
    arm = base + 0.01 * counts + rng.normal(0, 0.1, base.shape)
    found = relative_change(arm, base, counts)
    assert found.value == pytest.approx(np.exp(0.01) - 1, abs=1e-4)
    assert found.lower > 0.0099
    assert found.upper < 0.0103
    alone = perplexity(base, counts)
    assert alone.lower < np.exp(1.5) < alone.upper
    assert alone.upper - alone.lower > 0.3
    with pytest.raises(ValueError, match="losses"):
        relative_change(arm[:2], base, counts)


def test_numbers_come_back_from_text():
    """To float32."""
    array = np.random.default_rng(2).normal(0, 100, (5, 3))
    assert from_text(to_text(array), 5) == pytest.approx(array, rel=1e-6)
    assert (from_text(to_text(COUNTS), DOCUMENTS) == COUNTS).all()


def test_seeds_that_differ_widen_the_interval_of_a_share():
    """A model of three that has not learnt is not noise of the questions."""
    asked = np.full((3, 64), 100)
    right = np.array([100.0, 100.0, 3.0])[:, None] * np.ones(64)
    found = mean(right, asked)
    assert found.value == pytest.approx(2.03 / 3)
    assert found.upper - found.lower > 0.5
