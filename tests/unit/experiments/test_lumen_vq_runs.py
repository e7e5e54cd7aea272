"""Arms of the experiment at the smallest size: what starts from what, and what a row holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.lumen_vq.arms import LUMEN, START, UNCOMPRESSED, arms, keys
from experiments.lumen_vq.language import PAD, Language
from experiments.lumen_vq.memories import OtherFamily, ProductCodes, keep, pack, quantize
from experiments.lumen_vq.report import report
from experiments.lumen_vq.runs import Workshop, open_workshop
from experiments.lumen_vq.sizes import SIZES, Shape, Size, Stage
from experiments.lumen_vq.statistics import from_text, to_text
from experiments.lumen_vq.world import TaskOptions
from experiments.results import Key, ResultLog, run_missing
from experiments.running import Runner

STAGE = Stage(num_steps=4, tokens=400, learning_rate=1e-2, num_passages=(2,), position_rate=5)
SIZE = Size(
    shape=Shape(dim=32, ffn_dim=32, num_heads=4, head_dim=8, num_layers=3, num_decoder_layers=1),
    recite=STAGE,
    ask=STAGE,
    adapt=STAGE,
    joint=STAGE,
    decay=0.9,
    live_fractions=("1/3",),
    num_passages=2,
    num_test=60,
    num_seeds=1,
    task=TaskOptions(
        Language(num_name_pieces=20, num_value_pieces=2, value_length=1),
        attributes_each=1,
        relations_each=1,
        own_facts=2,
        other_facts=0,
        share_two_hops=0.1,
    ),
)
RIGHT = {
    START: 50,
    LUMEN: 50,
    UNCOMPRESSED: 50,
    "no passages": 0,
    "post hoc 16x": 40,
    "joint 16x": 45,
    "int4": 50,
}
RUN = list(RIGHT)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Return the rows of a few arms; the second call runs nothing."""
    folder = tmp_path_factory.mktemp("lumen_vq")
    log, workshop = ResultLog(folder / "rows.jsonl"), Workshop(SIZE, folder / "cache")
    wanted = [{"arm": name, "seed": 0} for name in RUN]
    assert run_missing(log, wanted, workshop.run) == 0
    assert log.missing(wanted) == []
    return log.rows()


def test_a_row_holds_what_the_table_needs(rows: list[dict]):
    """Bytes are counted; what learnt says for how long; every question has its outcome."""
    by_arm = {row["arm"]: row for row in rows}
    assert [by_arm[name]["bytes_per_token"] for name in RUN] == [0, 64, 64, 0, 4, 4, 18]
    assert by_arm["joint 16x"]["steps"] == by_arm[UNCOMPRESSED]["steps"] == 4
    assert by_arm["joint 16x"]["perplexity"] > 1
    assert by_arm["joint 16x"]["bytes_with_tables"] > 4
    assert 0 < by_arm["int4"]["error"] < by_arm["post hoc 16x"]["error"] < 1
    for row in rows:
        assert from_text(row["right"], SIZE.num_test).mean() == pytest.approx(row["value"])


def test_the_report_judges_the_task_by_its_rule(rows: list[dict]):
    """Too few questions and seeds cannot tell codecs apart, and the report says so."""
    right = {name: np.arange(SIZE.num_test) < number for name, number in RIGHT.items()}
    answered = [row | {"right": to_text(right[row["arm"]])} for row in rows]
    text = report(answered, SIZE)
    assert "| joint 16x | 4 |" in text
    assert "+10.00 % [" in text
    assert "60 questions: **no**" in text
    assert "1 seeds: **no**" in text
    assert "Nothing" in report([row for row in rows if row["arm"] == START], SIZE)


def test_what_was_trained_is_found_again(rows: list[dict], tmp_path: Path):
    """An arm that only reads differently leaves no reader of its own."""
    workshop = Workshop(SIZE, tmp_path)
    workshop.run({"arm": "no passages", "seed": 0})
    readers = sorted(each.name for each in tmp_path.iterdir() if each.is_dir())
    assert readers == ["FiD, before the cut seed 0", "LUMEN 1 of 3 seed 0", "uncompressed seed 0"]


@pytest.mark.parametrize("size", SIZES)
def test_every_arm_starts_from_one_before_it(size: str):
    """And every rate has a codec at the width of the model."""
    found = arms(SIZES[size].live_fractions)
    seen: set[str | None] = {None}
    for name, arm in found.items():
        assert arm.start in seen
        seen.add(name)
        if isinstance(arm.rule, ProductCodes):
            num_bytes = arm.rule.bytes_per_token(SIZES[size].shape.dim)
            assert num_bytes <= 2 * SIZES[size].shape.dim / arm.rule.rate
    deciding = keys(found, 2, only_deciding=True)
    assert {key["seed"] for key in deciding} == {0, 1}
    assert len(deciding) < len(keys(found, 2, only_deciding=False))


def test_the_codec_of_a_joint_arm_gives_what_its_bottleneck_gave():
    """What the reader learnt on is what a store would give back, padding left out."""
    torch.manual_seed(0)
    ids = torch.randint(1, 9, (40, 10))
    ids[:, 7:] = PAD
    memories = torch.randn(40, 10, 16)
    rule = ProductCodes(16, codebook_size=16, has_predictor=False)
    codec = rule.fit(pack(memories, ids.numpy(), 9), seed=0)
    layer = rule.bottleneck(codec, decay=0.9).eval()
    through, _ = quantize(layer, memories, ids)
    kept = keep(rule, layer.to_codec("float32"), memories, ids.numpy())
    torch.testing.assert_close(through, kept.memories)
    assert not through[ids == PAD].any()


def test_a_rate_without_a_code_is_refused():
    """The token id alone has more bits than the rate leaves."""
    with pytest.raises(ValueError, match="too high"):
        ProductCodes(64, has_predictor=True).num_subspaces(32)
    assert replace(ProductCodes(64), codebook_size=4096).num_subspaces(96) == 2


def test_integers_are_counted_with_their_scales():
    """32 dimensions in 4 bits and a scale: 18 bytes."""
    memories = torch.randn(30, 4, 32)
    ids = torch.ones(30, 4, dtype=torch.long).numpy()
    rule = OtherFamily("int4")
    assert keep(rule, rule.fit(pack(memories, ids, 2), 0), memories, ids).bytes_per_token == 18


def test_other_processes_run_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """An arm that there is not fails there as it would here; the process lives on."""
    runner = Runner(open_workshop, ("cpu", tmp_path), 2)
    assert not open_workshop.__module__.endswith("__main__")  # which other processes cannot import
    wanted: list[Key] = [{"arm": "none", "seed": 0}]
    assert run_missing(ResultLog(tmp_path / "cpu.jsonl"), wanted, runner, num_workers=2) == 1
    assert "KeyError" in capsys.readouterr().err
