"""Metadata columns: the names allowed, the type of each over a corpus, and values cast to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from memstore.errors import ConfigError, InvalidInputError
from memstore.types import Metadata, MetadataValue

RESERVED_COLUMNS = frozenset(
    {
        "passage_id", "document_id", "number", "title", "text", "start", "end", "num_tokens",
        "embedding", "crc32c", "codes",
    }
)  # fmt: skip
"""Names that a shard gives to columns of its own."""

FILTER_KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})
"""Words of the filter grammar, in any case: a column of such a name could never be asked for."""

MAX_COLUMNS = 256
"""Most metadata columns of one corpus; ids or words used as field names would make one for each."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_TYPES: dict[type, str] = {bool: "bool", int: "int64", float: "double", str: "string"}


class ColumnTypes:
    """Learns the type of each metadata column from the values that it is shown.

    Integers and floats together make a `double` column; any other mix makes a `string` column, as
    does a column of nulls alone.
    """

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}

    def add(self, metadata: Metadata) -> None:
        """Take note of one document's metadata.

        Raises:
            ConfigError: if a name cannot be a column, or there are more than `MAX_COLUMNS`.
        """
        for name, value in metadata.items():
            seen = self._seen.get(name)
            if seen is None:
                seen = self._add_column(name)
            if value is None:
                continue
            if type(value) not in _TYPES:
                raise ConfigError(
                    f"metadata field '{name}': got a {type(value).__name__}, wanted a str, int,"
                    " float, bool or None; convert it"
                )
            seen.add(_TYPES[type(value)])

    def _add_column(self, name: str) -> set[str]:
        check_column_name(name)
        if len(self._seen) == MAX_COLUMNS:
            raise ConfigError(
                f"metadata: more than {MAX_COLUMNS} different fields, the next is '{name}';"
                " put varying names into values, or nest them in one field"
            )
        return self._seen.setdefault(name, set())

    def result(self) -> dict[str, str]:
        """Return each column's type, `"string"`, `"int64"`, `"double"` or `"bool"`, by name."""
        return {name: _common_type(self._seen[name]) for name in sorted(self._seen)}


def check_column_name(name: str) -> None:
    """Refuse a name that cannot be a metadata column.

    Raises:
        ConfigError: if it is reserved, a keyword of filters, or not 1-63 ASCII letters, digits and
            underscores.
    """
    shown = name[:80].encode("ascii", "backslashreplace").decode()
    if name in RESERVED_COLUMNS:
        raise ConfigError(
            f"metadata field '{shown}': a column of the store has this name; rename the field in"
            " the input, or name it as the id, text or title field"
        )
    if name.lower() in FILTER_KEYWORDS:
        raise ConfigError(
            f"metadata field '{shown}': a word of the filter language, so that no filter could name"
            " it; rename the field in the input"
        )
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"metadata field '{shown}': not a column name; rename it in the input to letters,"
            " digits and underscores, not first a digit, at most 63"
        )


def _common_type(seen: AbstractSet[str]) -> str:
    if len(seen) == 1:
        return next(iter(seen))
    return "double" if seen == {"int64", "double"} else "string"


def coerce_row(metadata: Metadata, columns: Mapping[str, str]) -> Metadata:
    """Cast the values of one document to the types of `columns`, which `ColumnTypes` gave.

    Raises:
        InvalidInputError: if the document has a field that is no column.
    """
    unknown = sorted(metadata.keys() - columns.keys())
    if unknown:
        raise InvalidInputError(
            f"metadata: field '{unknown[0]}' was not there when the input was scanned; the input"
            " has changed: run the command again"
        )
    return {name: coerce_metadata(value, columns[name]) for name, value in metadata.items()}


def coerce_metadata(value: MetadataValue, column_type: str) -> MetadataValue:
    """Cast a value to its column's type; null stays null.

    Args:
        value: as read from a record.
        column_type: `"string"`, `"int64"`, `"double"` or `"bool"`.

    Raises:
        InvalidInputError: if the value is of a type that this column cannot hold.
    """
    if value is None or _TYPES[type(value)] == column_type:
        return value
    if column_type == "string":
        return str(value).lower() if isinstance(value, bool) else str(value)
    if column_type == "double" and type(value) is int:
        return float(value)
    raise InvalidInputError(
        f"metadata: got a value of type {_TYPES[type(value)]} for a column of type {column_type};"
        " the input has changed since it was scanned, or the collection has this column with"
        " another type"
    )
