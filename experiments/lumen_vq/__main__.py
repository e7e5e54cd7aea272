"""`python -m experiments.lumen_vq run|report`: is 16x compression almost free for a LUMEN reader?

`run` trains and tests every arm under every seed that has no row yet in results/<size>.jsonl, and
may be stopped and started again; `report` prints the tables of docs/results/lumen_vq.md. Nothing
is read but what the task generates.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from experiments.lumen_vq.arms import arms, keys
from experiments.lumen_vq.report import report
from experiments.lumen_vq.runs import open_workshop
from experiments.lumen_vq.sizes import SIZES
from experiments.results import ResultLog, run_missing
from experiments.running import Runner

_RESULTS = Path(__file__).parent / "results"
_CACHE = Path(tempfile.gettempdir()) / "memstore-lumen-vq"


def main() -> int:
    """Run, or report; return 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.lumen_vq")
    parser.add_argument("verb", choices=["run", "report"])
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--all", action="store_true", help="not only the arms that decide")
    parser.add_argument("--seeds", type=int, help="those of the size")
    parser.add_argument("--workers", type=int, default=1, help="processes, with a thread each")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--cache", type=Path, default=_CACHE, help="keeps readers between runs")
    options = parser.parse_args()
    size = SIZES[options.size]
    log = ResultLog(options.results / f"{options.size}.jsonl")
    num_failed = 0
    if options.verb == "run":
        num_failed = run_missing(
            log,
            keys(
                arms(size.live_fractions),
                options.seeds or size.num_seeds,
                only_deciding=not options.all,
            ),
            Runner(open_workshop, (options.size, options.cache), options.workers),
            num_workers=options.workers,
        )
    print(report(log.rows(), size))
    return min(num_failed, 1)


if __name__ == "__main__":
    sys.exit(main())
