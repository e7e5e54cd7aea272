"""Arms of the experiment at the smallest size: what they are built of, and what a row holds."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.longvq.arms import (
    BAND,
    FLOORS,
    FROZEN,
    FULL,
    LONGVQ,
    SPACE,
    TASKS,
    TWO,
    arms,
    count_weights,
    keys,
    make_config,
)
from experiments.longvq.batches import Batch
from experiments.longvq.copying import Copying
from experiments.longvq.expressions import NUM_TOKENS, ListOpsOptions
from experiments.longvq.learning import Course, Learner, learn
from experiments.longvq.recall import Part, Recall
from experiments.longvq.report import report
from experiments.longvq.reviews import ReviewsOptions
from experiments.longvq.runs import Workshop, open_workshop
from experiments.longvq.sizes import SIZES, Setting, Size
from experiments.longvq.text import TextOptions
from experiments.results import Key, ResultLog, run_missing
from experiments.running import Runner
from experiments.statistics import difference, from_text, mean, to_text
from memstore.models.longvq_config import Attention, LongVQConfig, StateSpace

SHAPE = LongVQConfig(
    vocab_size=256,
    dim=16,
    num_layers=2,
    key_dim=8,
    value_dim=16,
    ffn_dim=16,
    num_codes=8,
    window=4,
    moment_width=16,
)
CAUSAL = replace(SHAPE, is_causal=True)
COURSE = Course(num_steps=3, learning_rate=1e-2, warmup_steps=1)
RECALL = Recall(40, (Part(24, 3, 1),), (Part(24, 3, 50),), batch_size=4, window=4)
COPYING = Copying(length=12, num_copied=3, num_symbols=4, num_items=40, batch_size=4)
SIZE = Size(
    settings={
        "listops": Setting(
            ListOpsOptions(3, 30, num_train=60, num_test=40, batch_size=4),
            replace(SHAPE, vocab_size=NUM_TOKENS),
            COURSE,
        ),
        "recall": Setting(RECALL, replace(CAUSAL, vocab_size=RECALL.vocab_size), COURSE),
        "copying": Setting(COPYING, replace(CAUSAL, vocab_size=COPYING.vocab_size), COURSE),
        "text": Setting(TextOptions(length=16, most_stretches=2, batch_size=2), CAUSAL, COURSE),
        "reviews": Setting(ReviewsOptions(32, 16, num_folds=2, batch_size=4), SHAPE, COURSE),
    },
    num_codes=8,
    num_seeds=1,
)
ARMS = [LONGVQ, BAND]


def write_archives(folder: Path) -> None:
    """Write made-up texts of all sources."""
    rng = np.random.default_rng(0)
    counts = {
        "movie_reviews/neg/cv": 14,
        "movie_reviews/pos/cv": 14,
        "brown/c": 26,
        "state_union/s": 14,
        "webtext/w": 2,
        "inaugural/i": 10,
    }
    for prefix, count in counts.items():
        with zipfile.ZipFile(folder / f"{prefix.split('/')[0]}.zip", "a") as archive:
            for number in range(count):
                text = "".join(rng.choice(list("abcd "), rng.integers(60, 90)))
                archive.writestr(f"{prefix}{number:02}.txt", text)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Return rows of every task; the second call runs nothing."""
    folder = tmp_path_factory.mktemp("longvq")
    write_archives(folder)
    log, workshop = ResultLog(folder / "rows.jsonl"), Workshop(SIZE, folder / "cache", folder)
    wanted: list[Key] = [
        {"task": task, "arm": arm, "seed": 0} for task in TASKS for arm in (FLOORS, *ARMS)
    ]
    assert run_missing(log, wanted, workshop.run) == 0
    assert log.missing(wanted) == []
    return log.rows()


def test_a_row_holds_what_the_tables_need(rows: list[dict]):
    """Every item's outcome adds up to the figure; what learnt says for how long and with what."""
    found = {(row["task"], row["arm"]): row for row in rows}
    for task in TASKS:
        assert found[task, FLOORS]["floors"]
        for arm in ARMS:
            row = found[task, arm]
            sums, counts = (from_text(row[name], row["num_items"]) for name in ("sums", "counts"))
            assert row["value"] == pytest.approx(sums.sum() / counts.sum(), rel=1e-5)
            assert row["lower"] <= row["value"] <= row["upper"]
            assert row["steps"] == 3
            assert row["num_weights"] > 1000
            assert len(row["perplexity"]) == (2 if arm == LONGVQ else 0)
    assert found["recall", LONGVQ]["num_items"] == 50
    assert from_text(found["recall", LONGVQ]["counts"], 50).sum(axis=1).tolist() == [3.0] * 50
    tested = from_text(found["reviews", LONGVQ]["counts"], 28)
    assert tested.sum() == 14  # one fold of two
    assert found["text", LONGVQ]["value"] == pytest.approx(8, abs=1)  # bits of a random byte


def test_the_report_has_every_table_of_what_was_run(rows: list[dict]):
    """Tables and floors are there; without rows it says that there is nothing."""
    text = report(rows, SIZE)
    for title in ("ListOps", "(MQAR)", "Selective copying", "Bytes of running text", "Film"):
        assert title in text
    for arm in ARMS:
        assert text.count(f"| {arm} |") == len(TASKS)
    assert "floor: root operator" in text
    assert "| nearer than the band | beyond the band |" in text
    assert "an arm has 1 seeds of 3" in text
    assert report([], SIZE) == "Nothing has been run yet."


def answered(arm: str, shares: list[float], num_items: int = 4000) -> list[dict]:
    """Return rows of an arm that has these shares right, one a seed."""
    made = []
    for seed, share in enumerate(shares):
        right = np.random.default_rng([seed, ARMS_OF_REPORT.index(arm)]).random(num_items) < share
        made.append(
            {
                "task": "copying",
                "arm": arm,
                "seed": seed,
                "metric": "share of right answers",
                "value": float(right.mean()),
                "num_items": num_items,
                "groups": ["all"],
                "sums": to_text(right[:, None]),
                "counts": to_text(np.ones((num_items, 1))),
                "num_weights": 1000,
                "perplexity": [1.0] if arm == FROZEN else [],
                "training_seconds": 90.0,
                "collapsed": [[0, 0]] if arm == FROZEN else [],
            }
        )
    return made


ARMS_OF_REPORT = [LONGVQ, BAND, SPACE, FROZEN, FULL]


def test_the_report_says_which_margins_are_smaller_than_their_error():
    """What is level is called that, and decides whether codes contribute."""
    level = [row for arm in (LONGVQ, BAND) for row in answered(arm, [0.8, 0.8, 0.8])]
    text = report(level + answered(SPACE, [0.5, 0.5, 0.5]), SIZE)
    assert f"margin being smaller than its error: {BAND}." in text
    assert f"Worse than {LONGVQ}: {SPACE}." in text
    assert "attention beyond the band **is not shown to contribute**" in text
    assert f"{BAND} within noise of {LONGVQ} or better" in text
    assert "4,000 items were tested, not 10,000" in text


def test_the_report_says_where_the_codebook_contributes():
    """A gain on the band alone, a collapsed codebook, and the floor are put into words."""
    floors = {"task": "copying", "arm": FLOORS, "seed": 0, "floors": {"any symbol": 0.25}}
    better = answered(LONGVQ, [0.9] * 3) + answered(BAND, [0.6] * 3) + answered(FROZEN, [0.95] * 3)
    text = report([floors, *better], SIZE)
    assert "attention beyond the band **contributes**" in text
    assert "learning the codebook **does harm**" in text
    assert f"Better than {LONGVQ}: {FROZEN}." in text
    assert f"{LONGVQ} is **better than** the best floor, any symbol: +65" in text
    assert f"Collapsed codebooks: {FROZEN}, seed 0" in text
    assert "within noise" not in text


def test_rows_of_other_items_are_not_compared():
    """A test that has changed between two runs is refused."""
    rows = answered(LONGVQ, [0.5]) + answered(BAND, [0.5])
    rows[1]["counts"] = to_text(2 * np.ones((4000, 1)))
    with pytest.raises(ValueError, match="same items"):
        report(rows, SIZE)


def test_an_interval_knows_items_and_seeds():
    """It is exact without noise, as wide as a share's over items, and wider if seeds differ."""
    rng = np.random.default_rng(0)
    right = (rng.random((1, 2000)) < 0.5).astype(float)
    ones = np.ones((1, 2000), np.int64)
    found = mean(right, ones)
    reach = 1.96 * np.sqrt(0.25 / 2000)
    assert found.lower == pytest.approx(found.value - reach, abs=0.003)
    assert found.upper == pytest.approx(found.value + reach, abs=0.003)
    seeds = np.repeat([[0.0], [0.5], [1.0]], 2000, axis=1)
    spread = mean(seeds, np.ones((3, 2000), np.int64))
    reach = 4.30 * 0.5 / np.sqrt(3)  # Student's, of two degrees of freedom
    wanted = 0.5 - reach, 0.5, 0.5 + reach
    assert (spread.lower, spread.value, spread.upper) == pytest.approx(wanted)
    # What is hard for both widens nothing.
    assert difference(right, right, ones) == mean(0 * right, ones)
    assert difference(right + 0.25, right, ones).upper == pytest.approx(0.25)


def test_an_interval_of_folds_counts_what_each_seed_tested():
    """Two seeds that tested different items are a mean over both."""
    sums = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    counts = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])
    assert mean(sums, counts).value == 0.75
    with pytest.raises(ValueError, match="twice"):
        mean(sums, np.zeros((2, 4), np.int64))
    with pytest.raises(ValueError, match="alike"):
        difference(sums, sums[:1], counts)


@pytest.mark.parametrize("size", SIZES)
def test_arms_have_about_equal_weights(size: str):
    """At either size, and each lacks what its name says; S differs from one to another."""
    for setting in SIZES[size].settings.values():
        wanted = count_weights(setting.shape)
        assert setting.shape.num_codes == SIZES[size].num_codes
        for name in arms(setting.shape.num_codes):
            config = make_config(name, setting.shape)
            assert abs(count_weights(config) - wanted) <= 0.01 * wanted, name
    base = SIZES[size].settings["listops"].shape
    assert make_config(LONGVQ, base) == base
    assert make_config(SPACE, base).attention is Attention.NONE
    assert make_config("S4D only", base).state_space is StateSpace.S4D
    assert not make_config(FROZEN, base).learns_codebook
    codes = {make_config(name, base).num_codes for name in arms(base.num_codes)}
    assert codes == {2, 16, 64, 128, 256, 512}


@pytest.mark.parametrize("name", arms(8))
def test_every_arm_learns_a_step(name: str):
    """Both kinds of task, and every weight of a classifier's body that is used gets a gradient."""
    torch.manual_seed(0)
    setting = SIZE.settings["recall"]
    learner = Learner(make_config(name, setting.shape), None)
    batches = RECALL.training(0)
    (loss,) = learn(learner, batches, replace(COURSE, num_steps=1), device=torch.device("cpu"))
    assert 2 < loss < 6
    missing = [each for each, weight in learner.named_parameters() if weight.grad is None]
    assert missing == []


def test_a_loss_that_is_not_finite_ends_the_run():
    """It says at which step, and the log stays without a row."""
    learner = Learner(SIZE.settings["recall"].shape, None)
    with torch.no_grad():
        learner.model.embedding.weight[3] = float("nan")
    batch = Batch(torch.full((1, 4), 3), torch.full((1, 4), 1))
    with pytest.raises(ArithmeticError, match="step 1"):
        learn(learner, repeat(batch), COURSE, device=torch.device("cpu"))


def test_a_course_warms_up_and_ends_low():
    """The rate rises over the first steps and falls to a twentieth."""
    course = Course(num_steps=100, learning_rate=1.0, warmup_steps=10)
    rates = [course.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.05, abs=0.001)


def test_keys_of_the_short_run_are_those_that_decide():
    """Three seeds each; on generated tasks with what says whether codes contribute."""
    size = SIZES["cpu"]
    found = keys(TASKS, arms(size.num_codes), size.num_seeds, only_deciding=True)
    assert size.num_seeds >= 3
    for task in TASKS:
        names = [key["arm"] for key in found if key["task"] == task]
        assert names[0] == FLOORS
        assert all(names.count(each) == 3 for each in (LONGVQ, SPACE, BAND, FULL))
    for task in ("recall", "copying"):
        names = {key["arm"] for key in found if key["task"] == task}
        assert {FROZEN, TWO, "VQ without SSM"} <= names
    assert len(keys(TASKS, arms(64), 3, only_deciding=False)) == 5 * (1 + 3 * 16)


def test_text_tasks_need_the_archives(tmp_path: Path):
    """Without --data the run of such a task fails and says what to give."""
    workshop = Workshop(SIZE, tmp_path, None)
    with pytest.raises(ValueError, match="--data"):
        workshop.run({"task": "text", "arm": LONGVQ, "seed": 0})


def test_other_processes_run_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """An arm that there is not fails there as it would here; the process lives on."""
    runner = Runner(open_workshop, ("cpu", tmp_path, None), 2)
    assert not open_workshop.__module__.endswith("__main__")  # which other processes cannot import
    wanted: list[Key] = [{"task": "recall", "arm": "none", "seed": 0}]
    assert run_missing(ResultLog(tmp_path / "cpu.jsonl"), wanted, runner, num_workers=2) == 1
    assert "KeyError" in capsys.readouterr().err
