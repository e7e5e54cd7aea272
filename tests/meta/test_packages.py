"""What the packages export and what they document."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef


def exported(module: ast.Module) -> list[str] | None:
    """Return the `__all__` of a module, None if it has none."""
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def bound_here(module: ast.Module, package: str) -> set[str]:
    """Return the public names that a package takes from its own modules, at run time or for type
    checkers, and those that its `__init__.py` defines.
    """
    names: set[str] = set()
    for node in module.body:
        for each in node.body if isinstance(node, ast.If) else [node]:
            if isinstance(each, ast.ImportFrom) and f"{each.module}".startswith(f"{package}."):
                names.update(alias.asname or alias.name for alias in each.names)
            elif isinstance(each, Function | ast.ClassDef):
                names.add(each.name)
    return {name for name in names if not name.startswith("_")}


def test_every_exported_name_is_there(shipped: dict[str, ast.Module]) -> None:
    """`__all__` names what can be imported, once each, lazily or not."""
    for name, module in shipped.items():
        names = exported(module)
        if names is None:
            continue
        package = importlib.import_module(name.removesuffix("/__init__.py").replace("/", "."))

        assert len(set(names)) == len(names), name
        assert [each for each in names if not hasattr(package, each)] == [], name


def test_a_package_exports_what_it_gathers(shipped: dict[str, ast.Module]) -> None:
    """`__all__` is the public names that `__init__.py` takes from its modules or defines."""
    for name, module in shipped.items():
        names = exported(module)
        if names is not None and name.endswith("__init__.py"):
            package = name.removesuffix("/__init__.py").replace("/", ".")
            assert set(names) == bound_here(module, package), name


def test_everything_public_has_a_docstring(shipped: dict[str, ast.Module]) -> None:
    """Modules, classes, functions and methods, unless their name begins with `_`."""
    bare = [
        f"{name}: {path}"
        for name, module in shipped.items()
        for path, node in [("module", module), *public(module)]
        if not ast.get_docstring(node)
    ]

    assert bare == []


def public(
    parent: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Yield the public definitions of a module or class, methods of public classes included."""
    for node in parent.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}{node.name}.")
