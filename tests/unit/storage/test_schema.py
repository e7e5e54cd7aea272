"""Column types of metadata: inferred, merged, refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memstore.errors import ConfigError
from memstore.storage import infer_metadata_columns
from memstore.storage.schema import RESERVED_COLUMNS, merge_metadata_columns, shard_schema


@pytest.mark.parametrize(
    ("value", "kind"), [("x", "string"), (1, "int64"), (1.5, "double"), (True, "bool")]
)
def test_a_columns_type_is_that_of_its_values(value: Any, kind: str) -> None:
    """One value decides; None says nothing."""
    assert infer_metadata_columns([{"a": None}, {"a": value}, {}]) == {"a": kind}


def test_a_column_of_nothing_but_none_is_no_column() -> None:
    """Its type would be a guess."""
    assert infer_metadata_columns([{"a": None}]) == {}


@pytest.mark.parametrize("values", [[1, 2.5], [2.5, 1], [1, 2.5, 1]])
def test_integers_and_floats_make_a_float_column(values: list[float]) -> None:
    """In whatever order they come."""
    assert infer_metadata_columns([{"a": value} for value in values]) == {"a": "double"}


@pytest.mark.parametrize("values", [[1, "x"], [True, 1], ["x", 1.5], [2.5, False]])
def test_other_mixtures_are_refused(values: list[Any]) -> None:
    """A column has one type, and a bool is no number."""
    with pytest.raises(ConfigError, match="'a' holds both"):
        infer_metadata_columns([{"a": value} for value in values])


@pytest.mark.parametrize("value", [[1], {"b": 1}, b"x", np.int64(1), 1j])
def test_values_that_are_not_scalars_are_refused(value: Any) -> None:
    """The message names the column and the type, not the value."""
    with pytest.raises(ConfigError, match=f"'a' holds a {type(value).__name__}"):
        infer_metadata_columns([{"a": value}])


@pytest.mark.parametrize("name", [*sorted(RESERVED_COLUMNS), "", "two words", "1st", "a-b", "a.b"])
def test_names_that_a_filter_could_not_say_are_refused(name: str) -> None:
    """The store's own columns, and what is not an identifier."""
    with pytest.raises(ConfigError, match="reserved or not a plain identifier"):
        infer_metadata_columns([{name: 1}])


def test_columns_of_two_writes_are_merged() -> None:
    """A column may appear later, or be absent in a write."""
    merged = merge_metadata_columns({"a": "int64", "b": "bool"}, {"a": "int64", "c": "string"})

    assert merged == {"a": "int64", "b": "bool", "c": "string"}


def test_a_column_keeps_its_type() -> None:
    """A write that would change it is refused."""
    with pytest.raises(ConfigError, match="'a' is int64 in the collection and string"):
        merge_metadata_columns({"a": "int64"}, {"a": "string"})


def test_only_metadata_may_be_null() -> None:
    """Everything else is there in every row, and the codes come last."""
    schema = shard_schema(8, 2, {"year": "int64", "lang": "string"})

    assert [field.name for field in schema if field.nullable] == ["lang", "year"]
    assert schema.names[-1] == "codes"
    assert schema.field("codes").type.value_type.list_size == 2
    assert schema.field("embedding").type.value_type == pa.float16()
