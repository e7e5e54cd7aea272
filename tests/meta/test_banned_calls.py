"""Calls that run what they read, or read more than they check, are nowhere in the project."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
CALLS = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}
KEYWORDS = {"allow_pickle": True, "trust_remote_code": True, "weights_only": False}
# A test of the compiler needs a function that has no file: `exec` of a literal.
EXEMPT = {("tests/unit/codec/kernels/test_compiler.py", "exec")}


def banned(tree: ast.AST) -> Iterator[str]:
    """Yield what is banned in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] in MODULES:
                yield node.module
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS:
                yield called
            yield from (
                f"{each.arg}={each.value.value}"
                for each in node.keywords
                if each.arg in KEYWORDS
                and isinstance(each.value, ast.Constant)
                and each.value.value is KEYWORDS[each.arg]
            )


def test_no_banned_call_is_in_the_project(modules: dict[str, ast.Module]) -> None:
    """Stored bytes are parsed by formats that hold no code; models come as safetensors."""
    found = {(name, what) for name, tree in modules.items() for what in banned(tree)}

    assert found - EXEMPT == set()


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "eval(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_scan_sees(line: str) -> None:
    """One line of each kind."""
    assert list(banned(ast.parse(line)))


@pytest.mark.parametrize("line", ["model.eval()", "np.load(path)", "yaml.safe_load(text)"])
def test_the_scan_lets_pass(line: str) -> None:
    """Calls that only look alike."""
    assert list(banned(ast.parse(line))) == []
