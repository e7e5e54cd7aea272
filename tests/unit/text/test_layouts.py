"""One parser a layout: what becomes a document, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memstore.text.files import MAX_RECORD_BYTES, InputFile
from memstore.text.layouts import read_records
from memstore.text.records import BadRecord, RecordFields
from memstore.types import Document

Write = Callable[..., Path]


def read(path: Path, layout: str, fields: RecordFields | None = None) -> list[Document | BadRecord]:
    """Return the documents and refusals of a file."""
    file = InputFile(path.name, path, path.stat().st_size, layout)
    records = read_records(file, fields or RecordFields())
    return [record.value for record in records if record.value is not None]


GOOD = {
    "jsonl": (
        b'\xef\xbb\xbf{"id": "a", "title": "T", "text": "Gr\xc3\xbc\xc3\x9fe", "year": 1999}\r\n'
        b"\n"
        b'{"id": 7, "text": "", "tags": ["x", 1], "big": 9223372036854775808, "no": null}\n',
        [
            Document("a", "Grüße", "T", {"year": 1999}),
            Document("7", "", "", {"tags": '["x",1]', "big": "9223372036854775808", "no": None}),
        ],
    ),
    "beir": (
        b'{"_id": "a", "title": "T", "text": "one", "metadata": {"url": "u", "n": {"k": 1}}}\n'
        b'{"_id": 2, "text": "two", "lang": "en", "metadata": null}',
        [
            Document("a", "one", "T", {"url": "u", "n": '{"k":1}'}),
            Document("2", "two", "", {"lang": "en"}),
        ],
    ),
    "kilt": (
        b'{"_id": "290", "wikipedia_id": "290", "wikipedia_title": "A",'
        b' "text": ["A\\n", "is a\\n"], "anchors": [], "categories": "x"}\n'
        b'{"wikipedia_id": 3, "text": []}\n',
        [Document("290", "A\nis a", "A"), Document("3", "", "")],
    ),
    "dpr": (
        b'id\ttext\ttitle\n1\t"a ""quoted"" text\twith a tab"\tAaron\n2\tplain\t"T"\n',
        [Document("1", 'a "quoted" text\twith a tab', "Aaron"), Document("2", "plain", "T")],
    ),
    "msmarco": (
        '0\tno "quoting here\n1\t汉字\n'.encode(),
        [Document("0", 'no "quoting here'), Document("1", "汉字")],
    ),
    "text": (b"\xef\xbb\xbfone\r\ntwo\n", [Document("a.data", "one\r\ntwo\n")]),
}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("layout", GOOD)
def test_layout_is_read_plain_and_compressed(write: Write, layout: str, suffix: str) -> None:
    """Every layout gives the same documents from all three forms of its file."""
    content, expected = GOOD[layout]
    assert read(write(f"a.data{suffix}", content), layout) == expected


BAD = [
    ("jsonl", b'{"id": "a", "text": tru}', "broken JSON at column 21: "),
    ("jsonl", b'{"id": "a", "text": "secret', "broken JSON at column "),
    ("jsonl", b'{"id": "a", "text": "secret \xff"}', "invalid UTF-8 at byte 29"),
    ("jsonl", b'{"id": "a", "text": "\\ud800"}', "broken JSON at column "),
    ("jsonl", b"[" * 3000, "broken JSON at column "),
    ("jsonl", b'["secret"]', "the line is an array, wanted a JSON object"),
    ("jsonl", b"12", "the line is an integer, wanted a JSON object"),
    ("jsonl", b'{"text": "secret"}', "no field 'id' or '_id' for the id"),
    ("jsonl", b'{"id": "a"}', "no field 'text' for the text"),
    ("jsonl", b'{"id": "a", "text": null}', "the text is null, wanted a string"),
    ("jsonl", b'{"id": "a", "text": {}}', "the text is an object, wanted a string"),
    ("jsonl", b'{"id": "a", "text": "t", "title": 1}', "the title is an integer, wanted a string"),
    ("jsonl", b'{"id": 1.5, "text": "t"}', "the id is a floating-point number, wanted a string or"),
    ("jsonl", b'{"id": true, "text": "t"}', "the id is a boolean, wanted a string or an integer"),
    ("jsonl", b'{"id": null, "text": "t"}', "the id is null, wanted a string or an integer"),
    ("jsonl", b'{"id": "", "text": "t"}', "the id is empty"),
    ("jsonl", b'{"id": "a\\u0000", "text": "t"}', "the id has a control character"),
    (
        "jsonl",
        '{"id": "%s", "text": "t"}'.replace("%s", "é" * 257).encode(),
        "the id has 514 bytes, at most 512 are allowed",
    ),
    (
        "jsonl",
        b'{"id": "a", "text": "t", "m": ' + b"[" * 33 + b"]" * 33 + b"}",
        "metadata is nested deeper than 32 levels",
    ),
    ("beir", b'{"id": "a", "text": "t"}', "no field '_id' for the id"),
    (
        "beir",
        b'{"_id": "a", "text": "t", "metadata": [1]}',
        "the field 'metadata' is an array, wanted",
    ),
    ("kilt", b'{"text": ["t"]}', "no field '_id' or 'wikipedia_id' for the id"),
    ("kilt", b'{"_id": "1", "text": "t"}', "the text is a string, wanted an array of paragraphs"),
    ("kilt", b'{"_id": "1"}', "the text is null, wanted an array of paragraphs"),
    ("kilt", b'{"_id": "1", "text": ["t", 1]}', "the text has a paragraph that is not a string"),
    ("dpr", b"1\tsecret", "2 columns, wanted 3 (id, text, title)"),
    ("dpr", b'1\t"secret\tT', "broken CSV quoting: unexpected end of data"),
    ("dpr", b"1\tsecret\xff\tT", "invalid UTF-8 at byte 9"),
    ("dpr", b"\tsecret\tT", "the id is empty"),
    ("msmarco", b"1 secret", "1 columns, wanted 2 (id, text)"),
    ("msmarco", b"1\tsecret\tmore", "3 columns, wanted 2 (id, text)"),
    ("msmarco", b"1\t\xfe", "invalid UTF-8 at byte 3"),
    ("text", b"secret \xff", "invalid UTF-8 at byte 8"),
]


@pytest.mark.parametrize(("layout", "content", "reason"), BAD)
def test_bad_record_is_refused_with_a_reason_and_without_its_text(
    write: Write, layout: str, content: bytes, reason: str
) -> None:
    """The reason says what is wrong; what the record says is nobody's business."""
    (bad,) = read(write("a.data", content), layout)
    assert isinstance(bad, BadRecord)
    assert bad.reason.startswith(reason)
    assert "secret" not in bad.reason
    assert (bad.file, bad.record) == ("a.data", 1)


def test_reading_goes_on_behind_a_bad_line_and_numbers_count_lines(write: Write) -> None:
    """Blank lines count, so that an editor finds the line that is named."""
    content = b'{"id":"a","text":"x"}\n\nbroken\n{"id":"b","text":"y"}\n'
    values = read(write("a.jsonl", content), "jsonl")
    assert [type(value) for value in values] == [Document, BadRecord, Document]
    assert isinstance(values[1], BadRecord)
    assert values[1].record == 3


def test_line_of_one_gigabyte_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    """A sparse file: its one long line takes neither disk nor memory."""
    path = tmp_path / "a.jsonl"
    with path.open("wb") as stream:
        stream.write(b'{"id":"a","text":"')
        stream.truncate(1 << 30)
        stream.seek(1 << 30)
        stream.write(b'"}\n{"id":"b","text":"y"}\n')
    bad, good = read(path, "jsonl")
    assert bad == BadRecord("a.jsonl", 1, f"longer than {MAX_RECORD_BYTES:,} bytes")
    assert good == Document("b", "y")


def test_text_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    """A text file is one record, and the limit is the same."""
    path = tmp_path / "a.txt"
    with path.open("wb") as stream:
        stream.truncate(MAX_RECORD_BYTES + 1)
    (bad,) = read(path, "text")
    assert bad == BadRecord("a.txt", 1, f"longer than {MAX_RECORD_BYTES:,} bytes")


def test_named_fields_are_taken_and_their_usual_names_become_metadata(write: Write) -> None:
    """With `id_field`, a field `id` is data like any other."""
    path = write("a.jsonl", [{"id": 1, "key": "k", "body": "b", "head": "h"}])
    fields = RecordFields(id="key", text="body", title="head")
    assert read(path, "jsonl", fields) == [Document("k", "b", "h", {"id": 1})]


def test_missing_named_field_is_told_by_its_name(write: Write) -> None:
    """The reason repeats the name that the caller gave."""
    path = write("a.jsonl", [{"id": 1, "text": "t"}])
    (bad,) = read(path, "jsonl", RecordFields(id="key"))
    assert bad == BadRecord("a.jsonl", 1, "no field 'key' for the id")


def test_dpr_text_without_quotes_may_be_longer_than_the_csv_module_allows(write: Write) -> None:
    """The csv module's 128 KiB limit holds for quoted fields alone."""
    text = "x" * 200_000
    assert read(write("a.tsv", f"1\t{text}\tT\n"), "dpr") == [Document("1", text, "T")]
    (bad,) = read(write("b.tsv", f'1\t"{text}"\tT\n'), "dpr")
    assert isinstance(bad, BadRecord)
    assert bad.reason.startswith("broken CSV quoting: field larger than field limit")
