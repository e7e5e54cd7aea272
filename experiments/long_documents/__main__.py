"""`python -m experiments.long_documents run|report --data DIR`: whole documents against windows.

`run` trains and tests everything that has no row yet in results.jsonl, and may be stopped and
started again; `report` prints the tables of docs/results/long_documents.md. `--data` names the
folder that holds text/ and xquad/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from experiments.long_documents.report import report
from experiments.long_documents.runs import ARMS, Workshop, keys, tasks
from experiments.results import ResultLog, run_missing
from experiments.running import Runner

_RESULTS = Path(__file__).parent / "results.jsonl"
_CACHE = Path(tempfile.gettempdir()) / "memstore-long-documents"


def main() -> int:
    """Run, or report; return 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.long_documents")
    parser.add_argument("verb", choices=["run", "report"])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--task", choices=sorted(ARMS), help="one of them alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes, with a thread each")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--cache", type=Path, default=_CACHE, help="keeps models between runs")
    options = parser.parse_args()
    log = ResultLog(options.results)
    num_failed = 0
    if options.verb == "run":
        wanted = [key for key in keys(options.seeds) if options.task in (None, key["task"])]
        runner = Runner(Workshop, (options.data, options.cache), options.workers)
        num_failed = run_missing(log, wanted, runner, num_workers=options.workers)
    print(report(log.rows(), tasks(options.data)))
    return min(num_failed, 1)


if __name__ == "__main__":
    sys.exit(main())
