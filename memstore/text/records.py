"""From loose values to a document or a refusal: the rules that every layout shares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from memstore.types import Document, Metadata, MetadataValue

MAX_ID_BYTES = 512
"""The longest document id, in UTF-8."""

MAX_JSON_DEPTH = 32
"""The deepest nesting of a metadata value."""

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no document: which one, and why. Never its text.

    Attributes:
        file: name of the input file.
        record: 1-based line or row number.
        reason: what is wrong with it.
    """

    file: str
    record: int
    reason: str


class Record(NamedTuple):
    """A place in a file and what was found there; `value` is None for a blank line or a header.

    Attributes:
        number: 1-based line or row number.
        byte_offset: where it starts in an uncompressed line file; 0 elsewhere.
    """

    number: int
    byte_offset: int
    value: Document | BadRecord | None


@dataclass(frozen=True, slots=True)
class RecordFields:
    """Field names of a generic record; None: the usual one (`id` or `_id`, `text`, `title`)."""

    id: str | None = None
    text: str | None = None
    title: str | None = None

    @property
    def are_given(self) -> bool:
        """Whether any name was chosen by the caller."""
        return (self.id, self.text, self.title) != (None, None, None)

    def resolve(self, names: Iterable[str]) -> tuple[str, str, str]:
        """Return the id, text and title fields to look for in a record that has `names`."""
        usual_id = "id" if "id" in names else "_id"
        return self.id or usual_id, self.text or "text", self.title or "title"


class RecordError(Exception):
    """Why a record is refused; readers turn it into a `BadRecord`, it never leaves this package."""


def make_document(
    document_id: object, text: object, title: object = None, metadata: Metadata | None = None
) -> Document:
    """Check the parts of a document.

    Raises:
        RecordError: if the id, the text or the title is not what it has to be.
    """
    if not isinstance(text, str):
        raise RecordError(f"the text is {kind_of(text)}, wanted a string")
    if not isinstance(title, str | None):
        raise RecordError(f"the title is {kind_of(title)}, wanted a string")
    return Document(check_id(document_id), text, title or "", metadata or {})


def check_id(document_id: object) -> str:
    """Return a document id as a string; an integer becomes its decimal digits.

    Raises:
        RecordError: if it is of another type, empty, too long or has control characters.
    """
    if isinstance(document_id, int) and not isinstance(document_id, bool):
        return str(document_id)
    if not isinstance(document_id, str):
        raise RecordError(f"the id is {kind_of(document_id)}, wanted a string or an integer")
    if not document_id:
        raise RecordError("the id is empty")
    num_bytes = len(document_id.encode())
    if num_bytes > MAX_ID_BYTES:
        raise RecordError(f"the id has {num_bytes:,} bytes, at most {MAX_ID_BYTES} are allowed")
    if _CONTROL_CHARACTER.search(document_id):
        raise RecordError("the id has a control character")
    return document_id


def document_from_fields(record: Mapping[str, object], fields: RecordFields) -> Document:
    """Make a document of a generic record; all fields but the id, text and title are metadata.

    Raises:
        RecordError: if the id or text is missing or a value is not what it has to be.
    """
    id_name, text_name, title_name = fields.resolve(record)
    if id_name not in record:
        wanted = f"'{fields.id}'" if fields.id else "'id' or '_id'"
        raise RecordError(f"no field {wanted} for the id")
    if text_name not in record:
        raise RecordError(f"no field '{text_name}' for the text")
    taken = (id_name, text_name, title_name)
    metadata = {name: metadata_value(value) for name, value in record.items() if name not in taken}
    return make_document(record[id_name], record[text_name], record.get(title_name), metadata)


def metadata_value(value: object) -> MetadataValue:
    """Return a scalar as it is, and anything else as a string: nested values as JSON, bytes as hex.

    Integers outside int64 become strings too: no column type holds them.

    Raises:
        RecordError: if a value is nested deeper than `MAX_JSON_DEPTH`.
    """
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        return value if INT64_MIN <= value <= INT64_MAX else str(value)
    if isinstance(value, dict | list | tuple):
        _check_depth(value, MAX_JSON_DEPTH)
        return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    return _plain(value)


def kind_of(value: object) -> str:
    """Name a value's type with its article, in the words of JSON."""
    for types, name in _KINDS:
        if isinstance(value, types):
            return name
    return f"of type {type(value).__name__}"


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a floating-point number"),
    (str, "a string"),
    ((list, tuple), "an array"),
    (dict, "an object"),
)


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _check_depth(value: object, levels: int) -> None:
    if not isinstance(value, dict | list | tuple):
        return
    if levels == 0:
        raise RecordError(f"metadata is nested deeper than {MAX_JSON_DEPTH} levels")
    for child in value.values() if isinstance(value, dict) else value:
        _check_depth(child, levels - 1)
