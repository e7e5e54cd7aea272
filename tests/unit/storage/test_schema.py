"""The columns of a shard, and how those of two writes go together."""

from __future__ import annotations

import pyarrow as pa
import pytest

from memstore.errors import ConfigError
from memstore.storage.schema import (
    FILTER_COLUMNS,
    METADATA_TYPES,
    fit_metadata_columns,
    merge_metadata_columns,
    shard_schema,
)
from memstore.text.metadata import RESERVED_COLUMNS


def test_only_metadata_may_be_null() -> None:
    """Everything else is there in every row."""
    schema = shard_schema(8, 2, {"year": "int64", "lang": "string"})

    assert [field.name for field in schema if field.nullable] == ["lang", "year"]


def test_the_codes_come_last() -> None:
    """W words a record, and E numbers a retrieval vector."""
    schema = shard_schema(8, 2, {"zebra": "bool"})

    assert schema.names[-1] == "codes"
    assert schema.field("codes").type.value_type.list_size == 2
    assert schema.field("embedding").type.list_size == 8
    assert schema.field("embedding").type.value_type == pa.float16()


def test_metadata_columns_have_the_types_that_the_manifest_names() -> None:
    """Each of the four."""
    schema = shard_schema(8, 2, {f"a_{kind}": kind for kind in METADATA_TYPES})

    assert {schema.field(f"a_{kind}").type for kind in METADATA_TYPES} == set(
        METADATA_TYPES.values()
    )


def test_metadata_never_takes_the_name_of_a_column() -> None:
    """What the corpus reader reserves is what a shard has of its own, and filters see only that."""
    own = set(shard_schema(8, 2, {}).names)

    assert own == RESERVED_COLUMNS
    assert set(FILTER_COLUMNS) < own


def test_columns_of_two_writes_are_merged() -> None:
    """A column may appear later, or be absent in a write."""
    merged = merge_metadata_columns({"a": "int64", "b": "bool"}, {"a": "int64", "c": "string"})

    assert merged == {"a": "int64", "b": "bool", "c": "string"}


def test_a_column_keeps_its_type() -> None:
    """A write that would change it is refused."""
    with pytest.raises(ConfigError, match="'a' is int64 in the collection and string"):
        merge_metadata_columns({"a": "int64"}, {"a": "string"})


def test_new_columns_take_the_wider_type_that_the_collection_has():
    """Integers fit a column of doubles, everything fits one of strings, nothing else changes."""
    known = {"year": "double", "tag": "string", "flag": "bool"}

    fitted = fit_metadata_columns(
        known, {"year": "int64", "tag": "bool", "flag": "string", "new": "int64"}
    )

    assert fitted == {"year": "double", "tag": "string", "flag": "string", "new": "int64"}
