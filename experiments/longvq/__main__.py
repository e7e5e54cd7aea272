"""`python -m experiments.longvq run|report`: which parts of LongVQ does a task need?

`run` trains and tests every arm under every seed that has no row yet in results/<size>.jsonl, and
may be stopped and started again; `report` prints the tables. The tasks text and reviews read the
archives of text/ under `--data`; the others are generated. Reviews are read with `--all`, or where
they are named.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from experiments.longvq.arms import TASKS, arms, keys
from experiments.longvq.report import report
from experiments.longvq.runs import open_workshop
from experiments.longvq.sizes import SIZES
from experiments.results import ResultLog, run_missing
from experiments.running import Runner

_RESULTS = Path(__file__).parent / "results"
_CACHE = Path(tempfile.gettempdir()) / "memstore-longvq"
_READ_TEXT = ("text", "reviews")
_SHORT_RUN = tuple(task for task in TASKS if task != "reviews")


def main() -> int:
    """Run, or report; return 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.longvq")
    parser.add_argument("verb", choices=["run", "report"])
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--task", choices=TASKS, help="one of them alone")
    parser.add_argument("--all", action="store_true", help="not only the arms that decide")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder that holds text/")
    parser.add_argument("--seeds", type=int, help="those of the size")
    parser.add_argument("--workers", type=int, default=1, help="processes, with a thread each")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--cache", type=Path, default=_CACHE, help="keeps what was generated")
    options = parser.parse_args()
    size = SIZES[options.size]
    tasks = (options.task,) if options.task else TASKS if options.all else _SHORT_RUN
    log = ResultLog(options.results / f"{options.size}.jsonl")
    num_failed = 0
    if options.verb == "run":
        if options.data is None and any(task in _READ_TEXT for task in tasks):
            parser.error("text and reviews read text: give --data, or --task another")
        text = options.data / "text" if options.data else None
        num_failed = run_missing(
            log,
            keys(
                tasks,
                arms(size.num_codes),
                options.seeds or size.num_seeds,
                only_deciding=not options.all,
            ),
            Runner(open_workshop, (options.size, options.cache, text), options.workers),
            num_workers=options.workers,
        )
    print(report(log.rows(), size))
    return min(num_failed, 1)


if __name__ == "__main__":
    sys.exit(main())
