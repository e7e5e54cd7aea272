"""Metadata columns: types over a corpus, names, and casts."""

from __future__ import annotations

import pytest

from memstore.errors import ConfigError, InvalidInputError
from memstore.text import RESERVED_COLUMNS, check_column_name, coerce_metadata
from memstore.text.metadata import MAX_COLUMNS, ColumnTypes
from memstore.types import MetadataValue


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, None, False], "bool"),
        ([1, None], "int64"),
        ([1.5, 2.0], "double"),
        ([1, 2.5], "double"),
        (["a", None], "string"),
        (["a", 1], "string"),
        ([True, 1], "string"),
        ([True, 1.5], "string"),
        ([None], "string"),
    ],
)
def test_column_type_fits_all_values(values: list[MetadataValue], expected: str) -> None:
    """The narrowest type that holds every value, in any order, and each value can be cast to it."""
    columns = ColumnTypes()
    for value in reversed(values):
        columns.add({"x": value})
    assert columns.result() == {"x": expected}
    python_type = {"bool": bool, "int64": int, "double": float, "string": str}[expected]
    cast = [coerce_metadata(value, expected) for value in values]
    assert [value is None or type(value) is python_type for value in cast] == [True] * len(cast)
    assert [value is None for value in cast] == [value is None for value in values]


def test_columns_are_in_order_of_name() -> None:
    """The order does not depend on which document came first."""
    columns = ColumnTypes()
    columns.add({"b": 1})
    columns.add({"a": 1})
    assert list(columns.result()) == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (12, "12"), (0.1, "0.1"), ("x", "x")]
)
def test_values_of_a_mixed_column_become_text(value: MetadataValue, text: str) -> None:
    """Booleans are written as in JSON."""
    assert coerce_metadata(value, "string") == text


@pytest.mark.parametrize(
    ("value", "column"), [("x", "int64"), (1, "bool"), (1.5, "int64"), (True, "double")]
)
def test_value_that_does_not_fit_its_column_is_refused(value: MetadataValue, column: str) -> None:
    """The value itself is not in the message."""
    with pytest.raises(InvalidInputError, match=f"for a column of type {column}"):
        coerce_metadata(value, column)


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS))
def test_reserved_name_is_refused(name: str) -> None:
    """Columns of the store keep their names."""
    with pytest.raises(ConfigError, match=f"'{name}': a column of the store has this name; rename"):
        check_column_name(name)


@pytest.mark.parametrize("name", ["in", "Is", "NOT", "null", "and", "or", "True", "false"])
def test_word_of_the_filter_language_is_refused(name: str) -> None:
    """No filter could ever name such a column."""
    with pytest.raises(ConfigError, match=f"'{name}': a word of the filter language.*; rename"):
        check_column_name(name)


@pytest.mark.parametrize("name", ["", "a b", "1st", "naïve", "a-b", "a\n", "x" * 64])
def test_name_that_is_no_identifier_is_refused(name: str) -> None:
    """The message says what a name is made of."""
    with pytest.raises(ConfigError, match="not a column name; rename it"):
        check_column_name(name)


def test_column_names_allowed() -> None:
    """Up to 63 letters, digits and underscores."""
    for name in ("year", "_x", "Titel2", "x" * 63):
        check_column_name(name)


def test_too_many_columns_are_refused() -> None:
    """Ids used as field names would fill memory and schema."""
    columns = ColumnTypes()
    columns.add({f"f{n}": n for n in range(MAX_COLUMNS)})
    with pytest.raises(ConfigError, match=f"more than {MAX_COLUMNS} different fields"):
        columns.add({"one_more": 1})
