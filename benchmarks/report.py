"""Results as Markdown: for the terminal, and docs/results/benchmarks.md from the stored JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.slices import SLICES
from benchmarks.registry import BENCHMARKS

_HEAD = """# Benchmarks

Made by `python -m benchmarks report` from benchmarks/results/*.json; edit neither. How each table
is measured is in [README.md](README.md). A figure is the median over the rounds, with the least and
the greatest round behind it in brackets; for p50 and p99 it is the percentile over all calls.
"""


_TITLES = BENCHMARKS | {f"gpu_{name}": title for name, title in SLICES.items()}


def write_report(results: Path, target: Path) -> int:
    """Write one document from all stored results; return how many there were."""
    parts = [_HEAD]
    found = [name for name in _TITLES if (results / f"{name}.json").is_file()]
    parts += [render(json.loads((results / f"{name}.json").read_text())) for name in found]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(parts), encoding="utf-8")
    return len(found)


def render(result: dict[str, Any]) -> str:
    """Return one benchmark's tables as Markdown."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"## {_TITLES[result['benchmark']]}"
    yield ""
    if result["quick"]:
        yield "**Quick sizes: these figures show only that the benchmark runs.**"
        yield ""
    for table in result["tables"]:
        yield f"**{table['title']}**"
        yield ""
        yield from _table_lines(table)
        yield ""
    yield from (f"- {note}" for note in result["notes"])
    yield "- Gates passed first: " + "; ".join(result["gates"]) + "."
    settings = ", ".join(f"{key} {_plain(value)}" for key, value in result["settings"].items())
    yield f"- Settings: {settings}."
    machine, versions = result["machine"], result["versions"]
    yield (
        f"- `{result['command']}`, {result['date']}, commit {result['commit'][:12]}"
        f"{'+changes' if result['commit'].endswith('+changes') else ''}; {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['ram_gib']} GiB, load {machine['load_1min']} at the "
        f"start; took {result['seconds']:,.0f} s."
    )
    yield "- " + ", ".join(f"{name} {number}" for name, number in versions.items()) + "."


def _table_lines(table: dict[str, Any]) -> Iterator[str]:
    columns = table["columns"]
    yield "| " + " | ".join(columns) + " |"
    yield "|---" + "|---:" * (len(columns) - 1) + "|"
    for row in table["rows"]:
        yield "| " + " | ".join(map(_cell, row)) + " |"


def _cell(value: Any) -> str:
    if not isinstance(value, dict):
        return _plain(value)
    text = f"{_plain(value['value'])} {value['unit']}".strip()
    if value["rounds"] == 1:
        return text
    return f"{text} [{_plain(value['low'])} … {_plain(value['high'])}]"


def _plain(value: Any) -> str:
    """Print a number with three figures that mean something, and anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"
