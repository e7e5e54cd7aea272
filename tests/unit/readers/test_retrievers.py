"""Retrievers for LangChain and LlamaIndex, against their core packages."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from memstore import Store
from memstore.errors import CollectionNotFoundError, MissingDependencyError
from memstore.types import SearchResult
from tests.unit.readers.material import ListSource, make_codec, make_memory

PACKAGES = {"langchain": "langchain_core", "llamaindex": "llama_index.core"}


@pytest.fixture
def langchain() -> ModuleType:
    """The module, where LangChain's core is installed."""
    pytest.importorskip("langchain_core", reason="langchain-core is not installed")
    return importlib.import_module("memstore.readers.langchain")


@pytest.fixture
def llamaindex() -> ModuleType:
    """The module, where LlamaIndex's core is installed."""
    pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")
    return importlib.import_module("memstore.readers.llamaindex")


@pytest.fixture
def source() -> ListSource:
    """Three passages of a user's own."""
    codec = make_codec()
    return ListSource([make_memory(number, 2, codec) for number in range(3)])


def test_langchain_gets_documents(langchain: ModuleType, source: ListSource) -> None:
    """Id, text, score, document, place and metadata; asked by itself or in a chain."""
    from langchain_core.documents import Document
    from langchain_core.runnables import RunnableLambda

    retriever = langchain.MemstoreRetriever(memories=source, top_k=2)

    found = retriever.invoke("a ship")

    assert source.questions == ["a ship"]
    assert found[1] == Document(
        id="doc#1",
        page_content="text 1",
        metadata={
            "year": 2001, "document_id": "doc", "title": "title", "start": 10, "end": 19,
            "score": 0.5,
        },
    )  # fmt: skip
    assert len(found) == 2
    assert asyncio.run(retriever.ainvoke("a ship")) == found
    assert retriever.batch(["a ship", "the sea"]) == [found, found]
    chain = retriever | RunnableLambda(lambda documents: [each.id for each in documents])
    assert chain.invoke("a ship") == ["doc#0", "doc#1"]


def test_llamaindex_gets_nodes(llamaindex: ModuleType, source: ListSource) -> None:
    """Id, text, score, source, place and metadata; asked at once or awaited."""
    from llama_index.core.schema import QueryBundle

    retriever = llamaindex.MemstoreRetriever(source, top_k=2)

    found = retriever.retrieve("a ship")

    assert source.questions == ["a ship"]
    assert [each.node.node_id for each in found] == ["doc#0", "doc#1"]
    node = found[1].node
    assert (found[1].score, node.text, node.ref_doc_id) == (0.5, "text 1", "doc")
    assert (node.start_char_idx, node.end_char_idx) == (10, 19)
    assert node.metadata == {"year": 2001, "title": "title"}
    bundle = QueryBundle("a ship", embedding=[1.0])
    awaited = asyncio.run(retriever.aretrieve(bundle))
    assert [each.node_id for each in awaited] == ["doc#0", "doc#1"]


@pytest.fixture(params=list(PACKAGES))
def ask(request: pytest.FixtureRequest) -> Callable[..., list[tuple[str, float]]]:
    """Return `ask(source, question, **options)`: ids and scores, through either framework."""
    module: Any = request.getfixturevalue(request.param)

    def call(source: object, question: str, **options: Any) -> list[tuple[str, float]]:
        if request.param == "langchain":
            documents = module.MemstoreRetriever(memories=source, **options).invoke(question)
            return [(each.id, each.metadata["score"]) for each in documents]
        nodes = module.MemstoreRetriever(source, **options).retrieve(question)
        return [(each.node_id, each.score) for each in nodes]

    return call


def test_a_store_is_searched_without_its_memories(
    ask: Callable[..., list[tuple[str, float]]], source: ListSource
) -> None:
    """What has a `search` is not asked for codes that nobody reads; options go through."""
    asked: list[dict[str, object]] = []

    class Searching(ListSource):
        """Can search, too."""

        def search(self, query: str, **options: Any) -> SearchResult:
            asked.append({"query": query, **options})
            return source.query(query)

    found = ask(Searching([]), "a ship", top_k=3, where="year >= 2001", collection="wiki")

    assert found == [("doc#0", 1.0), ("doc#1", 0.5), ("doc#2", 1 / 3)]
    options = {"top_k": 3, "where": "year >= 2001", "collection": "wiki"}
    assert asked == [{"query": "a ship", **options}]


def test_errors_of_the_source_come_through(
    ask: Callable[..., list[tuple[str, float]]], store: Store
) -> None:
    """As what they are."""
    with pytest.raises(CollectionNotFoundError):
        ask(store, "a ship", collection="wiki")


@pytest.mark.parametrize("name", PACKAGES)
def test_without_the_package_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the module says what to install."""
    root = PACKAGES[name].partition(".")[0]
    for module in [each for each in sys.modules if each.partition(".")[0] == root]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, root, None)
    monkeypatch.delitem(sys.modules, f"memstore.readers.{name}", raising=False)
    with pytest.raises(MissingDependencyError, match=rf"pip install memstore\[{name}\]"):
        importlib.import_module(f"memstore.readers.{name}")
