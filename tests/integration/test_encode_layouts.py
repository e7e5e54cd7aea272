"""A corpus of every layout, from file to passages in the store, by the encode command."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from memstore import open_store
from memstore.types import Passage
from tests.integration.conftest import Done
from tests.tiny import make_records, write_jsonl

RECORDS = make_records(6)
RECORDS[0]["text"] = "the cold sea — naïve café 😀 rises"
FULL = {record["id"]: (record["title"], record["text"]) for record in RECORDS}
UNTITLED = {record["id"]: ("", record["text"]) for record in RECORDS}


def _jsonl(folder: Path) -> Path:
    return write_jsonl(folder / "corpus.jsonl", RECORDS)


def _beir(folder: Path) -> Path:
    (folder / "beir").mkdir()
    records = [
        {
            "_id": record["id"],
            "title": record["title"],
            "text": record["text"],
            "metadata": {"year": record["year"]},
        }
        for record in RECORDS
    ]
    write_jsonl(folder / "beir/corpus.jsonl", records)
    write_jsonl(folder / "beir/queries.jsonl", [{"_id": "q", "text": "not a document"}])
    return folder / "beir"


def _kilt(folder: Path) -> Path:
    records = [
        {
            "wikipedia_id": record["id"],
            "wikipedia_title": record["title"],
            "text": [f"{record['text']}\n"],
        }
        for record in RECORDS
    ]
    return write_jsonl(folder / "kilt.jsonl", records)


def _dpr(folder: Path) -> Path:
    lines = [f'{r["id"]}\t"{r["text"]}"\t{r["title"]}' for r in RECORDS]
    (folder / "psgs.tsv").write_text("\n".join(["id\ttext\ttitle", *lines]), encoding="utf-8")
    return folder / "psgs.tsv"


def _msmarco(folder: Path) -> Path:
    lines = "".join(f"{record['id']}\t{record['text']}\n" for record in RECORDS)
    (folder / "collection.tsv").write_text(lines, encoding="utf-8")
    return folder / "collection.tsv"


def _parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(RECORDS), folder / "corpus.parquet")
    return folder / "corpus.parquet"


def _arrow(folder: Path) -> Path:
    table = pa.Table.from_pylist(RECORDS)
    with pa.ipc.new_file(str(folder / "corpus.arrow"), table.schema) as writer:
        writer.write_table(table)
    return folder / "corpus.arrow"


def _text_folder(folder: Path) -> Path:
    for number, record in enumerate(RECORDS):
        path = folder / "notes" / f"{record['id']}{'.md' if number % 2 else '.txt'}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(record["text"], encoding="utf-8")
    return folder / "notes"


def _gzipped(folder: Path) -> Path:
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(_jsonl(folder).read_bytes()))
    return folder / "corpus.jsonl.gz"


def _zstandard(folder: Path) -> Path:
    (folder / "psgs.tsv.zst").write_bytes(zstandard.compress(_dpr(folder).read_bytes()))
    return folder / "psgs.tsv.zst"


def _without_suffix(document_id: str) -> str:
    return document_id.rsplit(".", 1)[0] if document_id.endswith((".md", ".txt")) else document_id


def _stored(store: Path) -> list[Passage]:
    snapshot = open_store(store).collection("default").snapshot()
    return [snapshot.passage(row) for row in range(snapshot.num_rows)]


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (_jsonl, FULL),
        (_beir, FULL),
        (_kilt, FULL),
        (_dpr, FULL),
        (_msmarco, UNTITLED),
        (_parquet, FULL),
        (_arrow, FULL),
        (_text_folder, UNTITLED),
        (_gzipped, FULL),
        (_zstandard, FULL),
    ],
)
def test_every_layout_is_encoded_with_its_titles_and_exact_spans(
    write: Callable[[Path], Path],
    expected: dict[str, tuple[str, str]],
    encode: Callable[..., Done],
    tmp_path: Path,
) -> None:
    """Passages cover their documents from the first word to the last, and `start` and `end` are
    places in the document's text.
    """
    done = encode(write(tmp_path))

    passages = _stored(tmp_path / "store")
    spans: dict[str, list[Passage]] = {}
    for passage in passages:
        spans.setdefault(_without_suffix(passage.document_id), []).append(passage)
    assert done.code == 0
    assert done.json()["num_documents"] == len(expected)
    assert {name: parts[0].title for name, parts in spans.items()} == {
        name: title for name, (title, _) in expected.items()
    }
    for name, (_, text) in expected.items():
        assert [part.number for part in spans[name]] == list(range(len(spans[name])))
        assert all(part.text == text[part.start : part.end] for part in spans[name])
        joined = " ".join(part.text for part in spans[name])
        assert joined == text


def test_fields_of_generic_records_can_be_named(
    encode: Callable[..., Done], tmp_path: Path
) -> None:
    """`--id-field` and its like choose the fields; the others become metadata columns."""
    records: list[dict[str, Any]] = [
        {"key": 7, "body": "cold water", "head": "sea", "id": "x", "tags": ["a", "b"]}
    ]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", records)

    names = ("--id-field", "key", "--text-field", "body", "--title-field", "head")
    done = encode(corpus, *names)

    assert done.code == 0
    (passage,) = _stored(tmp_path / "store")
    assert (passage.passage_id, passage.title, passage.text) == ("7#0", "sea", "cold water")
    assert passage.metadata == {"id": "x", "tags": '["a","b"]'}
