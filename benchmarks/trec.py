"""The Cranfield collection in TREC's XML, as a BEIR folder; and rankings as TREC run files.

The queries' own numbers have gaps; the judgements count them from 1 in the order of the file
instead, and so does everything here. A judgement above 0 means relevant, anything else does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import DataMissingError
from memstore.types import Document

_FILES = ("cran.all.1400.xml", "cran.qry.xml", "cranqrel.trec.txt")

Ranking = Mapping[str, Mapping[str, float]]
"""Query id → document id → score."""


@dataclass(frozen=True, slots=True)
class TestCollection:
    """Documents, queries by id, and the relevant documents of each query."""

    documents: list[Document]
    queries: dict[str, str]
    relevant: dict[str, set[str]]

    def head(self, num_documents: int) -> TestCollection:
        """Return the first documents and the queries that one of them answers."""
        documents = self.documents[:num_documents]
        ids = {document.document_id for document in documents}
        relevant = {query: found & ids for query, found in self.relevant.items() if found & ids}
        queries = {query: text for query, text in self.queries.items() if query in relevant}
        return TestCollection(documents, queries, relevant)

    def write_corpus(self, path: Path) -> None:
        """Write the documents as BEIR's corpus.jsonl."""
        with path.open("w", encoding="utf-8") as file:
            for each in self.documents:
                record = {"_id": each.document_id, "title": each.title, "text": each.text}
                file.write(json.dumps(record) + "\n")


def read_cranfield(data: Path | None) -> TestCollection:
    """Read the collection from `data`, or from the folder cranfield in it.

    Raises:
        DataMissingError: if it is not there.
    """
    if data is None:
        raise DataMissingError("it needs the Cranfield collection; name its folder with --data DIR")
    folder = data / "cranfield" if (data / "cranfield").is_dir() else data
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise DataMissingError(f"{folder} has no {', '.join(missing)}")
    corpus, topics, judgements = ((folder / name).read_text(encoding="utf-8") for name in _FILES)
    documents = [
        Document(_tag(each, "docno"), _tag(each, "text"), _tag(each, "title"))
        for each in _elements(corpus, "doc")
    ]
    texts = (_tag(each, "title") for each in _elements(topics, "top"))
    queries = {str(number): text for number, text in enumerate(texts, 1)}
    relevant: dict[str, set[str]] = {}
    for line in judgements.splitlines():
        query, _, document, judgement = line.split()
        if int(judgement) > 0:
            relevant.setdefault(query, set()).add(document)
    return TestCollection(documents, queries, relevant)


def write_run(path: Path, ranking: Ranking, name: str) -> None:
    """Write the first 100 documents of each query in TREC's six columns."""
    with path.open("w", encoding="utf-8") as file:
        for query, scores in ranking.items():
            best = sorted(scores, key=lambda document: (-scores[document], document))[:100]
            file.writelines(
                f"{query} Q0 {document} {rank} {scores[document]:.6f} {name}\n"
                for rank, document in enumerate(best, 1)
            )


# The corpus has no root element and no entities: it is cut by its tags, not parsed as XML.
def _elements(text: str, name: str) -> Iterator[str]:
    return (match[1] for match in re.finditer(f"<{name}>(.*?)</{name}>", text, re.DOTALL))


def _tag(element: str, name: str) -> str:
    return " ".join(next(_elements(element, name), "").split())
