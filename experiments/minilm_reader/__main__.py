"""`python -m experiments.minilm_reader --data DIR [--seeds N]`: a reader on compressed memories.

MiniLM's bottom four layers make the memories, its top two read them. Every arm, fold and seed is a
run that appends a row; what has a row is not run again. Prints the tables of
docs/results/minilm_reader.md at the end.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from functools import partial
from pathlib import Path

from experiments.minilm_reader.arms import keys
from experiments.minilm_reader.report import report
from experiments.minilm_reader.runs import run
from experiments.minilm_reader.workshop import Workshop
from experiments.results import ResultLog, run_missing

_RESULTS = Path(__file__).parent / "results.jsonl"
_CACHE = Path(tempfile.gettempdir()) / "memstore-minilm-reader"


def main() -> int:
    """Run what has no row yet, print the tables, and return 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.minilm_reader")
    parser.add_argument("--data", type=Path, required=True, help="the evaluation data")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--cache", type=Path, default=_CACHE, help="keeps memories and readers")
    parser.add_argument("--report", action="store_true", help="print what there is, run nothing")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    log = ResultLog(options.results)
    workshop = Workshop(options.data, options.cache)
    wanted = [] if options.report else keys(options.seeds)
    num_failed = run_missing(log, wanted, partial(run, workshop))
    print(report(log.rows()))
    return min(num_failed, 1)


if __name__ == "__main__":
    sys.exit(main())
