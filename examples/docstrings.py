"""The docstrings of the Python standard library as a corpus.

`python -m examples.docstrings corpus.jsonl` writes it. Sources are parsed, never imported. Ids are
dotted names, so they are unique; the order is that of the ids.
"""

from __future__ import annotations

import ast
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "turtledemo",
    "ensurepip",
    "__pycache__",
}
_MIN_LENGTH = 80


def docstrings() -> Iterator[dict[str, str]]:
    """Yield one record a docstring of 80 characters or more: id, title, text, module, kind."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED & set(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # the library ships a few files that are wrong on purpose
        module = ".".join(part for part in parts if part != "__init__")
        yield from _documented(tree, module, module, set())


def _documented(node: ast.AST, name: str, module: str, seen: set[str]) -> Iterator[dict[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text and len(text) >= _MIN_LENGTH and name not in seen:
            seen.add(name)
            kind = type(node).__name__.removesuffix("Def").removeprefix("Async").lower()
            yield {"id": name, "title": name, "text": text, "module": module, "kind": kind}
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(child, f"{name}.{child.name}", module, seen)


def write_corpus(path: Path, limit: int | None = None) -> int:
    """Write the corpus as JSON lines; return the number of documents."""
    records = sorted(docstrings(), key=lambda record: record["id"])[:limit]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return len(records)


if __name__ == "__main__":
    print(write_corpus(Path(sys.argv[1])), "documents", file=sys.stderr)
