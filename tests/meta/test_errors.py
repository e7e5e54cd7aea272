"""The error tree, told four times: classes, codes, docstring, docs/errors.md."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from memstore import errors
from memstore.errors import ErrorCode, MemstoreError, error_class, error_classes

_LINE = re.compile(r"^(?P<indent>[│ ]*)[├└]── (?P<name>\w+)(?: \((?P<builtin>\w+)\))?")


def tree_in_docstring() -> list[tuple[str, tuple[str, ...]]]:
    """Return the tree as the module's docstring draws it: class and bases."""
    drawn: list[tuple[str, tuple[str, ...]]] = []
    ancestors = ["MemstoreError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := _LINE.match(line):
            del ancestors[1 + len(match["indent"]) // 4 :]
            bases = (ancestors[-1], match["builtin"]) if match["builtin"] else (ancestors[-1],)
            drawn.append((match["name"], bases))
            ancestors.append(match["name"])
    return drawn


def test_the_docstring_draws_the_classes() -> None:
    """Names, parents and the built-in errors that they also are."""
    classes = [
        (cls.__name__, tuple(base.__name__ for base in cls.__bases__))
        for cls in error_classes()
        if cls is not MemstoreError
    ]

    assert sorted(tree_in_docstring()) == sorted(classes)


def test_every_class_has_a_code_of_its_own_and_every_code_a_class() -> None:
    """And a code leads back to its class."""
    codes = {cls: cls.code for cls in error_classes() if cls is not MemstoreError}

    assert all("code" in vars(cls) for cls in codes)
    assert sorted(codes.values()) == sorted(ErrorCode)
    assert all(error_class(code.value) is cls for cls, code in codes.items())


def test_a_code_is_the_name_of_its_class() -> None:
    """`PassageNotFoundError` is PASSAGE_NOT_FOUND: a user who has one finds the other."""
    for cls in error_classes():
        if cls is not MemstoreError:
            words = re.findall("[A-Z][a-z]+", cls.__name__.removesuffix("Error"))
            assert cls.code == "_".join(words).upper()


def test_the_page_is_what_the_classes_say(root: Path) -> None:
    """docs/errors.md; `python docs/generate_errors.py` writes it."""
    assert (root / "docs/errors.md").read_text() == runpy.run_path(
        str(root / "docs/generate_errors.py")
    )["page"]()
