"""The Cranfield collection in TREC's XML, as a BEIR folder.

The queries' own numbers have gaps; the judgements count them from 1 in the order of the file
instead, and so does everything here. A judgement above 0 means relevant, anything else does not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import DataMissingError
from memstore.evaluation import read_qrels, read_queries
from memstore.evaluation.files import elements, read_text, tag_text
from memstore.types import Document

_FILES = ("cran.all.1400.xml", "cran.qry.xml", "cranqrel.trec.txt")


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
    corpus, topics, judgements = (folder / name for name in _FILES)
    documents = [
        Document(tag_text(each, "docno"), tag_text(each, "text"), tag_text(each, "title"))
        for _, each in elements(read_text(corpus), "doc")
    ]
    relevant = {
        query: {document for document, relevance in judged.items() if relevance > 0}
        for query, judged in read_qrels(judgements).items()
    }
    relevant = {query: found for query, found in relevant.items() if found}
    return TestCollection(documents, read_queries(topics, by_position=True), relevant)
