"""Rows of experiments: appended whole, never twice, whatever ends the run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.results import Key, ResultLog, Row, run_missing, table
from memstore.errors import CorruptionError


def run(key: Key) -> Row:
    """Fail for the arm that is broken."""
    if key["arm"] == "broken":
        raise RuntimeError("it broke")
    return {"em": int(key["seed"]) / 10}


def run_for_an_hour(key: Key) -> Row:
    """Tell who runs, and go on."""
    Path(str(key["folder"]), str(os.getpid())).touch()
    time.sleep(3600)
    return {}


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


_DRIVER = """
import sys
from pathlib import Path
from experiments.results import ResultLog, run_missing
from tests.unit.experiments.test_results import run_for_an_hour

if __name__ == "__main__":
    folder = sys.argv[1]
    keys = [{"folder": folder, "seed": seed} for seed in range(4)]
    run_missing(ResultLog(Path(folder) / "log.jsonl"), keys, run_for_an_hour, num_workers=2)
"""


def test_workers_end_when_their_driver_is_killed(tmp_path: Path):
    """They would go on for hours, and for rows that nobody appends."""
    script = tmp_path / "driver.py"
    script.write_text(_DRIVER)
    folder = tmp_path / "running"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, script, folder], env=environment) as driver:
        _wait_until(lambda: len(list(folder.iterdir())) == 2)
        workers = [int(path.name) for path in folder.iterdir()]
        driver.kill()
    _wait_until(lambda: not any(map(_runs, workers)))


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # ended, though nobody has asked how


def _wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)
