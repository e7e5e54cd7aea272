"""`python -m benchmarks.gpu [--slice NAME] [--out DIR] [--quick]`: all slices, or one.

Results go to DIR/gpu_NAME.json (benchmarks/results by default). A slice whose result is there is
not run again: after an interruption the same command does the rest. `--quick` takes sizes that only
show that the code runs, without a GPU too (in Triton's interpreter, TRITON_INTERPRET=1).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.gpu.slices import SLICES, run
from benchmarks.harness import Cell, Context, Figure, GateError
from benchmarks.machine import commit, machine

_RESULTS = Path(__file__).resolve().parents[1] / "results"
_PACKAGES = "ml_dtypes", "numpy", "torch", "triton"


def main() -> int:
    """Run what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--slice", choices=SLICES, help="run only this one")
    parser.add_argument("--out", type=Path, metavar="DIR", help="benchmarks/results by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the code")
    arguments = parser.parse_args()
    # Quick results would otherwise be taken for the slice's, which would never run.
    arguments.out = arguments.out or (_RESULTS / "local" if arguments.quick else _RESULTS)
    if not arguments.slice:
        return _run_each(arguments)
    target = arguments.out / f"gpu_{arguments.slice}.json"
    if target.is_file():
        print(f"{arguments.slice}: done already, {target} is there", file=sys.stderr)
        return 0
    try:
        result = _run(arguments.slice, quick=arguments.quick)
    except GateError as err:
        print(f"{arguments.slice}: {err}", file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def _run_each(arguments: argparse.Namespace) -> int:
    """Run every slice in a process of its own, which gives back all of the GPU's memory."""
    flags = ["--out", str(arguments.out), *(["--quick"] if arguments.quick else [])]
    codes = [
        subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu", "--slice", name, *flags], check=False
        ).returncode
        for name in SLICES
    ]
    return 1 if any(codes) else 0


def _run(name: str, *, quick: bool) -> dict[str, Any]:
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {**machine(), **_device()},
        "versions": {package: version(package) for package in _PACKAGES},
    }
    print(f"{name} …", file=sys.stderr, flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="memstore-bench-") as folder:
        context = Context(quick=quick, data=None, work=Path(folder), files=Path(folder))
        outcome = run(name, context)
    for table in outcome.tables:
        rows = (" | ".join(map(_brief, row)) for row in table.rows)
        print(table.title, *rows, sep="\n  ", flush=True)
    return {
        "benchmark": f"gpu_{name}",
        "command": f"python -m benchmarks.gpu --slice {name}" + (" --quick" if quick else ""),
        "quick": quick,
        **about,
        "seed": context.seed,
        "seconds": round(time.monotonic() - began, 1),
        **dataclasses.asdict(outcome),
    }


def _brief(cell: Cell) -> str:
    return f"{cell.value:,.4g} {cell.unit}" if isinstance(cell, Figure) else str(cell)


def _device() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {"gpu": "none: Triton's interpreter"}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "gpu_multiprocessors": properties.multi_processor_count,
        "gpu_l2_mib": round(properties.L2_cache_size / 2**20, 1),
        "cuda": torch.version.cuda,
    }


if __name__ == "__main__":
    sys.exit(main())
