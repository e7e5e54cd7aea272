"""Wall time of fresh processes: `import memstore`, `memstore --help`, `memstore --version`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from benchmarks.harness import Context, Outcome, Table, check, measure, spread
from benchmarks.serving import MEMSTORE
from memstore import __version__

_BARE = "python, nothing imported"
_COMMANDS: dict[str, tuple[str, ...]] = {
    _BARE: (sys.executable, "-c", "pass"),
    "import memstore": (sys.executable, "-c", "import memstore"),
    "memstore --version": (*MEMSTORE, "--version"),
    "memstore --help": (*MEMSTORE, "--help"),
}
_AIMS = {"import memstore": "< 100 ms", "memstore --help": "< 300 ms"}


def run(context: Context) -> Outcome:
    """Time 15 fresh processes of each command."""
    rounds = 3 if context.quick else 15
    gates = check(
        {
            "--version prints the version": lambda: __version__ in _output("memstore --version"),
            "--help lists encode, query and serve": lambda: all(
                command in _output("memstore --help") for command in ("encode", "query", "serve")
            ),
        }
    )
    seconds = measure({name: _start(name) for name in _COMMANDS}, rounds=rounds)
    bare = seconds[_BARE]
    rows = [
        (
            name,
            spread(1e3 * taken[:, 0], "ms"),
            spread(1e3 * (taken - bare)[:, 0], "ms"),
            _AIMS.get(name, ""),
        )
        for name, taken in seconds.items()
    ]
    columns = ("process", "wall time", "beyond bare Python", "aim (wall time)")
    return Outcome(
        gates=gates,
        settings={"rounds": rounds},
        tables=[Table(title="A fresh process, from start to exit", columns=columns, rows=rows)],
        notes=["Files are in the page cache and bytecode is compiled (one warm-up each)."],
    )


def _start(name: str) -> Callable[[int], None]:
    def once(_turn: int) -> None:
        subprocess.run(_COMMANDS[name], check=True, stdout=subprocess.DEVNULL)

    return once


def _output(name: str) -> str:
    return subprocess.run(_COMMANDS[name], check=True, capture_output=True, text=True).stdout
