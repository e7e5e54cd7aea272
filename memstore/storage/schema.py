"""The Arrow schema of a shard, and the column types that metadata may have.

Does not: know what the codes mean; a record is W words.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from memstore.errors import ConfigError

METADATA_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
}

# Columns that a filter may name beside the user's own.
FILTER_COLUMNS = ("passage_id", "document_id", "title", "start", "end", "num_tokens")


def shard_schema(
    embedding_dim: int, record_words: int, metadata_columns: Mapping[str, str]
) -> pa.Schema:
    """Return the columns of a shard; metadata columns are the only ones that may hold nulls."""

    def required(name: str, kind: pa.DataType) -> pa.Field:
        return pa.field(name, kind, nullable=False)

    record = pa.list_(pa.field("word", pa.int16(), nullable=False), record_words)
    return pa.schema(
        [
            required("passage_id", pa.string()),
            required("document_id", pa.string()),
            required("number", pa.int32()),
            required("title", pa.string()),
            required("start", pa.int32()),
            required("end", pa.int32()),
            required("num_tokens", pa.int32()),
            *(
                pa.field(name, METADATA_TYPES[kind])
                for name, kind in sorted(metadata_columns.items())
            ),
            required(
                "embedding",
                pa.list_(pa.field("value", pa.float16(), nullable=False), embedding_dim),
            ),
            required("text", pa.binary()),
            required("crc32c", pa.uint32()),
            required("codes", pa.list_(pa.field("record", record, nullable=False))),
        ]
    )


def fit_metadata_columns(known: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Return the types in which new passages are best stored beside a collection's own columns.

    Integers go into a column of doubles, and anything into one of strings; another difference is
    left as it is, for `merge_metadata_columns` to refuse.
    """
    fitted = {}
    for name, kind in new.items():
        wider = known.get(name, kind)
        fits = wider == "string" or (wider, kind) == ("double", "int64")
        fitted[name] = wider if fits else kind
    return fitted


def merge_metadata_columns(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of both; where a column is missing, it reads as null.

    Raises:
        ConfigError: if one column has two types.
    """
    for name in old.keys() & new.keys():
        if old[name] != new[name]:
            raise ConfigError(
                f"metadata column {name!r} is {old[name]} in the collection and {new[name]} in the "
                "new passages; convert it or use another name",
                column=name,
            )
    return {**old, **new}
