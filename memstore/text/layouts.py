"""One small parser a layout: a line, or a whole text file, to a document.

| layout | record | document |
|---|---|---|
| jsonl | an object a line | the fields named by the caller; the others are metadata |
| beir | `{_id, title, text, metadata}` a line | `metadata` and any further field are metadata |
| kilt | `{wikipedia_id, wikipedia_title, text: [paragraph]}` a line | paragraphs as lines |
| dpr | `id, text, title` with tabs and CSV quoting; header lines are skipped | one record a line |
| msmarco | `id, text` with one tab, no header and no quoting | no title |
| text | a file | id is its name below the folder, without compression suffix |

A DPR record is one physical line, as in psgs_w100.tsv: a quoted field may hold tabs and quotes, not
line ends.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator

import orjson

from memstore.text.files import (
    MAX_RECORD_BYTES,
    InputFile,
    Observer,
    open_stream,
    read_lines,
    split_compression,
)
from memstore.text.records import (
    BadRecord,
    Record,
    RecordError,
    RecordFields,
    document_from_fields,
    kind_of,
    make_document,
    metadata_value,
)
from memstore.text.tables import TABLE_LAYOUTS, read_rows
from memstore.types import Document

DPR_HEADER = ["id", "text", "title"]

_BEIR_FIELDS = RecordFields(id="_id")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_records(
    file: InputFile,
    fields: RecordFields,
    *,
    byte_offset: int = 0,
    first_record: int = 1,
    observe: Observer | None = None,
) -> Iterator[Record]:
    """Read the records of a file from `first_record` on, in order.

    Args:
        file: what to read, and by which layout.
        fields: names of fields; only the generic layouts look at them.
        byte_offset: where `first_record` starts, for a line file that is not compressed; elsewhere
            the records before it are passed over.
        first_record: 1-based line or row number.
        observe: shown every stored byte of the file once, if reading goes to the end; needs
            `byte_offset` 0.

    Raises:
        NotFoundError: if the file is gone.
        InvalidInputError: if the file as a whole cannot be read: a damaged stream or table, or a
            bomb.
        StorageError: if the disk fails.
    """
    if file.layout in TABLE_LAYOUTS:
        yield from read_rows(file, fields, first_record=first_record, observe=observe)
    elif file.layout == "text":
        yield _read_text(file, observe)
    else:
        yield from _read_line_records(file, fields, byte_offset, first_record, observe)


def _read_line_records(
    file: InputFile,
    fields: RecordFields,
    byte_offset: int,
    first_record: int,
    observe: Observer | None,
) -> Iterator[Record]:
    parse = LINE_PARSERS[file.layout]
    is_plain = split_compression(file.name)[1] is None
    with open_stream(file.path, observe=observe) as stream:
        number = 1
        if is_plain:
            number = first_record
            stream.seek(byte_offset)
        for line, num_bytes in read_lines(stream):
            if number >= first_record:
                value = _parse_line(parse, line, fields, file.name, number)
                yield Record(number, byte_offset if is_plain else 0, value)
            number += 1
            byte_offset += num_bytes


def _parse_line(
    parse: LineParser, line: bytes | None, fields: RecordFields, name: str, number: int
) -> Document | BadRecord | None:
    if line is None:
        return BadRecord(name, number, f"longer than {MAX_RECORD_BYTES:,} bytes")
    if number == 1:
        line = line.removeprefix(_BYTE_ORDER_MARK)
    if not line.strip():
        return None
    try:
        return parse(line, fields)
    except RecordError as err:
        return BadRecord(name, number, str(err))


def _read_text(file: InputFile, observe: Observer | None) -> Record:
    with open_stream(file.path, observe=observe) as stream:
        content = stream.read(MAX_RECORD_BYTES + 1)
    value: Document | BadRecord
    try:
        if len(content) > MAX_RECORD_BYTES:
            raise RecordError(f"longer than {MAX_RECORD_BYTES:,} bytes")  # noqa: TRY301
        text = _decode(content.removeprefix(_BYTE_ORDER_MARK))
        value = make_document(split_compression(file.name)[0], text)
    except RecordError as err:
        value = BadRecord(file.name, 1, str(err))
    return Record(1, 0, value)


def _decode(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as err:
        raise RecordError(f"invalid UTF-8 at byte {err.start + 1}") from err


def load_object(line: bytes) -> dict[str, object]:
    """Parse a line as one JSON object.

    Raises:
        RecordError: if it is not UTF-8, not JSON or not an object.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as err:
        _decode(line)  # orjson reports bytes that are not UTF-8 without their place
        raise RecordError(f"broken JSON at column {err.colno}: {err.msg}") from err
    if not isinstance(value, dict):
        raise RecordError(f"the line is {kind_of(value)}, wanted a JSON object")
    return value


def _parse_jsonl(line: bytes, fields: RecordFields) -> Document:
    return document_from_fields(load_object(line), fields)


def _parse_beir(line: bytes, _: RecordFields) -> Document:
    record = load_object(line)
    inner = record.pop("metadata", None) or {}
    if not isinstance(inner, dict):
        raise RecordError(f"the field 'metadata' is {kind_of(inner)}, wanted an object")
    document = document_from_fields(record, _BEIR_FIELDS)
    metadata = {name: metadata_value(value) for name, value in inner.items()}
    return make_document(
        document.document_id, document.text, document.title, {**document.metadata, **metadata}
    )


def _parse_kilt(line: bytes, _: RecordFields) -> Document:
    record = load_object(line)
    id_name = "_id" if "_id" in record else "wikipedia_id"
    if id_name not in record:
        raise RecordError("no field '_id' or 'wikipedia_id' for the id")
    paragraphs = record.get("text")
    if not isinstance(paragraphs, list):
        raise RecordError(f"the text is {kind_of(paragraphs)}, wanted an array of paragraphs")
    if not all(isinstance(paragraph, str) for paragraph in paragraphs):
        raise RecordError("the text has a paragraph that is not a string")
    text = "\n".join(paragraph.removesuffix("\n") for paragraph in paragraphs)
    return make_document(record[id_name], text, record.get("wikipedia_title"))


def _parse_dpr(line: bytes, _: RecordFields) -> Document | None:
    text = _decode(line)
    columns = _split_quoted(text) if '"' in text else text.split("\t")
    if columns == DPR_HEADER:
        return None
    if len(columns) != len(DPR_HEADER):
        raise RecordError(f"{len(columns)} columns, wanted 3 (id, text, title)")
    document_id, text, title = columns
    return make_document(document_id, text, title)


def _split_quoted(line: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error as err:
        raise RecordError(f"broken CSV quoting: {err}") from err


def _parse_msmarco(line: bytes, _: RecordFields) -> Document:
    columns = _decode(line).split("\t")
    if len(columns) != 2:
        raise RecordError(f"{len(columns)} columns, wanted 2 (id, text)")
    document_id, text = columns
    return make_document(document_id, text)


LineParser = Callable[[bytes, RecordFields], Document | None]

LINE_PARSERS: dict[str, LineParser] = {
    "jsonl": _parse_jsonl,
    "beir": _parse_beir,
    "kilt": _parse_kilt,
    "dpr": _parse_dpr,
    "msmarco": _parse_msmarco,
}

LAYOUTS = (*LINE_PARSERS, *TABLE_LAYOUTS, "text")
"""Every layout by name."""
