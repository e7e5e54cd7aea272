"""`python -m benchmarks [NAME …] [--data DIR] [--quick]`; `python -m benchmarks report`.

Tables go to stdout, progress to stderr, JSON to benchmarks/results/ (of `--quick` runs, which say
nothing about speed, to benchmarks/results/local/).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
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

_HERE = Path(__file__).resolve().parent
_REPORT = _HERE.parent / "docs" / "results" / "benchmarks.md"


def main() -> int:
    """Run what the command line names."""
    arguments = _parse()
    if arguments.names == ["report"]:
        print(f"{write_report(_HERE / 'results', _REPORT)} benchmarks in {_REPORT}")
        return 0
    failed = 0
    for name in arguments.names or BENCHMARKS:
        try:
            result = _run(name, arguments, lambda: datetime.now(UTC))
        except DataMissingError as err:
            print(f"{name}: skipped, {err}", file=sys.stderr)
            failed += bool(arguments.names)
        except GateError as err:
            print(f"{name}: {err}", file=sys.stderr)
            failed += 1
        else:
            print(render(result), flush=True)
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*BENCHMARKS, "report"]))
    parser.add_argument("--data", type=Path, help="folder of the evaluation data (cranfield/)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the code")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown and arguments.names != ["report"]:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    return arguments


def _run(name: str, arguments: argparse.Namespace, clock: Callable[[], datetime]) -> dict[str, Any]:
    """Run one benchmark in a fresh folder and store its result."""
    results = _HERE / "results" / ("local" if arguments.quick else "")
    results.mkdir(parents=True, exist_ok=True)
    print(f"{name} …", file=sys.stderr, flush=True)
    about = {"date": clock().isoformat(timespec="seconds"), "machine": machine()}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as folder:
        context = Context(
            quick=arguments.quick, data=arguments.data, work=Path(folder), results=results
        )
        outcome: Outcome = run(name, context)
    result = {
        "benchmark": name,
        "command": shlex.join(["python", "-m", "benchmarks", name, *_flags(arguments)]),
        "quick": arguments.quick,
        **about,
        "commit": commit(),
        "versions": versions(),
        "seed": context.seed,
        "seconds": round(time.monotonic() - began, 1),
        **dataclasses.asdict(outcome),
    }
    (results / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _flags(arguments: argparse.Namespace) -> list[str]:
    flags = ["--quick"] if arguments.quick else []
    return flags + (["--data", "DIR"] if arguments.data else [])


if __name__ == "__main__":
    sys.exit(main())
