"""Rows of experiments: appended whole, never twice, whatever ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.results import Key, ResultLog, Row, run_missing, table
from memstore.errors import CorruptionError


def run(key: Key) -> Row:
    """Fail for the arm that is broken."""
    if key["arm"] == "broken":
        raise RuntimeError("it broke")
    return {"em": int(key["seed"]) / 10}


def keys(*arms: str) -> list[Key]:
    """Return the runs of some arms under two seeds."""
    return [{"arm": arm, "seed": seed} for arm in arms for seed in (0, 1)]


def test_rows_come_back_as_they_were_appended(tmp_path: Path):
    """A log gives its rows in order."""
    log = ResultLog(tmp_path / "results" / "cpu.jsonl")
    assert log.rows() == []
    log.append({"arm": "FiD", "em": 0.5})
    log.append({"arm": "LUMEN", "em": 0.4})
    assert log.rows() == [{"arm": "FiD", "em": 0.5}, {"arm": "LUMEN", "em": 0.4}]


def test_a_line_that_was_cut_off_is_left_out_and_then_overwritten(tmp_path: Path):
    """What a killed run left of its row does not spoil the file."""
    log = ResultLog(tmp_path / "cpu.jsonl")
    log.append({"arm": "FiD"})
    with log.path.open("ab") as file:
        file.write(b'{"arm": "LU')
    assert log.rows() == [{"arm": "FiD"}]
    log.append({"arm": "LUMEN"})
    assert log.rows() == [{"arm": "FiD"}, {"arm": "LUMEN"}]


@pytest.mark.parametrize("line", [b'{"arm": ', b"[1, 2]"])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes):
    """A line in the middle that is no row is an error that says which."""
    path = tmp_path / "cpu.jsonl"
    path.write_bytes(b"{}\n" + line + b"\n{}\n")
    with pytest.raises(CorruptionError, match=r"cpu\.jsonl: line 2"):
        ResultLog(path).rows()


def test_only_what_is_missing_is_run(tmp_path: Path):
    """A key that a row holds is not run again, whatever else the row says."""
    log = ResultLog(tmp_path / "cpu.jsonl")
    log.append({"arm": "FiD", "seed": 0, "em": 0.9, "steps": 7})
    assert run_missing(log, keys("FiD"), run) == 0
    assert [(row["seed"], row["em"]) for row in log.rows()] == [(0, 0.9), (1, 0.1)]


def test_a_failed_run_is_counted_and_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """One run that fails neither ends the others nor leaves a row."""
    log = ResultLog(tmp_path / "cpu.jsonl")
    assert run_missing(log, keys("broken", "FiD"), run) == 2
    assert [row["arm"] for row in log.rows()] == ["FiD", "FiD"]
    assert "it broke" in capsys.readouterr().err
    assert log.missing(keys("broken", "FiD")) == keys("broken")


def test_a_table_is_markdown():
    """Header, rule, rows."""
    assert table(["arm", "EM"], [["FiD", "0.9"]]) == "| arm | EM |\n| --- | --- |\n| FiD | 0.9 |"
