"""`python -m experiments.melodi run|report`: what do MELODI's two memories hold, and for how much?

`run` trains and tests every arm under every seed that has no row yet in results/<size>.jsonl, and
may be stopped and started again; `report` prints the tables of docs/results/melodi.md. The
language task reads the archives of text/ under `--data`; the recall task reads nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from experiments.melodi.arms import Task, keys
from experiments.melodi.report import report
from experiments.melodi.runs import open_workshop
from experiments.melodi.sizes import SIZES
from experiments.results import ResultLog, run_missing
from experiments.running import Runner

_RESULTS = Path(__file__).parent / "results"
_CACHE = Path(tempfile.gettempdir()) / "memstore-melodi"
_TASKS: tuple[Task, ...] = ("recall", "language")


def main() -> int:
    """Run, or report; return 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.melodi")
    parser.add_argument("verb", choices=["run", "report"])
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--task", choices=_TASKS, help="one of the two alone")
    parser.add_argument("--all", action="store_true", help="not only the arms that decide")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder that holds text/")
    parser.add_argument("--seeds", type=int, help="those of the size")
    parser.add_argument("--workers", type=int, default=1, help="processes, with a thread each")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--cache", type=Path, default=_CACHE, help="keeps models between runs")
    options = parser.parse_args()
    size, tasks = SIZES[options.size], (options.task,) if options.task else _TASKS
    log = ResultLog(options.results / f"{options.size}.jsonl")
    num_failed = 0
    if options.verb == "run":
        if "language" in tasks and options.data is None:
            parser.error("the language task reads text: give --data, or --task recall")
        text = options.data / "text" if options.data else None
        num_failed = run_missing(
            log,
            keys(tasks, options.seeds or size.num_seeds, only_deciding=not options.all),
            Runner(open_workshop, (options.size, options.cache, text), options.workers),
            num_workers=options.workers,
        )
    print(report(log.rows()))
    return min(num_failed, 1)


if __name__ == "__main__":
    sys.exit(main())
