"""`python -m benchmarks [NAME …] [--data DIR] [--quick]`; `python -m benchmarks report`.

Tables go to stdout, progress to stderr, JSON to benchmarks/results/ (of `--quick` runs, which say
nothing about speed, to benchmarks/results/local/).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import Context, DataMissingError, GateError, Outcome
from benchmarks.machine import commit, machine, versions
from benchmarks.registry import BENCHMARKS, run
from benchmarks.report import render, write_report

_ROOT = Path(__file__).resolve().parents[1]
_RESULTS = _ROOT / "benchmarks" / "results"
_LOCAL = _RESULTS / "local"
_SKIPPED = 3  # exit code of a benchmark whose data is not there
_REPORT = _ROOT / "docs" / "results" / "benchmarks.md"


def main() -> int:
    """Run what the command line names; return the exit code."""
    arguments = _parse()
    if arguments.names == ["report"]:
        print(f"{write_report(_RESULTS, _REPORT)} benchmarks in {_REPORT.relative_to(_ROOT)}")
        return 0
    if len(arguments.names) != 1:
        return _run_each(arguments)
    name = arguments.names[0]
    try:
        print(render(_run(name, arguments, lambda: datetime.now(UTC))), flush=True)
    except DataMissingError as err:
        print(f"{name}: skipped, {err}", file=sys.stderr)
        return _SKIPPED
    except GateError as err:
        print(f"{name}: {err}", file=sys.stderr)
        return 1
    return 0


def _run_each(arguments: argparse.Namespace) -> int:
    """Run several benchmarks, each in a fresh process: threads and caches of one are not the
    next one's.
    """
    flags = _flags(arguments, str(arguments.data))
    codes = [
        subprocess.run([sys.executable, "-m", "benchmarks", name, *flags], check=False).returncode
        for name in arguments.names or BENCHMARKS
    ]
    return 1 if set(codes) - {0, _SKIPPED} else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*BENCHMARKS, "report"]))
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of the evaluation data (cranfield/)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the code")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown and arguments.names != ["report"]:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    return arguments


def _run(name: str, arguments: argparse.Namespace, clock: Callable[[], datetime]) -> dict[str, Any]:
    """Run one benchmark in a fresh folder and store its result."""
    _LOCAL.mkdir(parents=True, exist_ok=True)
    print(f"{name} …", file=sys.stderr, flush=True)
    about = {
        "date": clock().isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as folder:
        context = Context(
            quick=arguments.quick, data=arguments.data, work=Path(folder), files=_LOCAL
        )
        outcome: Outcome = run(name, context)
    result = {
        "benchmark": name,
        "command": " ".join(["python -m benchmarks", name, *_flags(arguments, "DIR")]),
        "quick": arguments.quick,
        **about,
        "seed": context.seed,
        "seconds": round(time.monotonic() - began, 1),
        **dataclasses.asdict(outcome),
    }
    target = (_LOCAL if arguments.quick else _RESULTS) / f"{name}.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _flags(arguments: argparse.Namespace, data: str) -> list[str]:
    """Return the options as they were given, with `data` in the place of the folder."""
    flags = ["--quick"] if arguments.quick else []
    return [*flags, "--data", data] if arguments.data else flags


if __name__ == "__main__":
    sys.exit(main())
