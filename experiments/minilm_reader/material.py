"""Passages with memories, and questions with the tokens of their answers.

The questions of XQuAD's English part are read among passages of their article: those of their own
paragraph and, as distractors, some of the article's other four.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.harness import DataMissingError
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.encoders.identity import plan_encoder
from memstore.encoders.tokens import load_tokenizer
from memstore.errors import ShapeError
from memstore.models.extractive_spans import token_spans
from memstore.types import Document, TokenizedPassage

NO_PASSAGE = -1


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a document: its text, its answer's, and where that starts."""

    text: str
    answer: str
    start: int


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A question and where its answer is.

    Attributes:
        text: as asked.
        token_ids: (Q,) int64.
        answer: the gold answer.
        article, document: numbers of the article and of its document.
        passage, first, last: passage that holds the answer, and its rows there, both included;
            passage NO_PASSAGE if a window's edge cuts the answer.
    """

    text: str
    token_ids: np.ndarray
    answer: str
    article: int
    document: int
    passage: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """P passages of T tokens together, and questions about them.

    Attributes:
        memories: (T, D) float16 or float32; passage i owns rows `offsets[i]:offsets[i + 1]`.
        token_ids: (T,) int64.
        offsets: (P + 1,) int64.
        spans: (T, 2) int64, characters of the passage's document; -1 for what is no text.
        texts: P documents, of which each passage is a part.
        articles, documents: (P,) int64.
        questions: all of them.
    """

    memories: np.ndarray
    token_ids: np.ndarray
    offsets: np.ndarray
    spans: np.ndarray
    texts: list[str]
    articles: np.ndarray
    documents: np.ndarray
    questions: list[Question]

    def with_memories(self, memories: np.ndarray) -> Material:
        """Return the same passages with other memories (T, D)."""
        return replace(self, memories=memories)

    def answer(self, passage: int, first: int, last: int) -> str:
        """Return the text of rows `first` to `last` of a passage, both included."""
        rows = self.spans[self.offsets[passage] :]
        return self.texts[passage][rows[first, 0] : rows[last, 1]]

    def text_rows(self, passage: int) -> tuple[int, int]:
        """Return the first and the last row of a passage that stand for text."""
        rows = self.spans[slice(*self.offsets[passage : passage + 2])]
        is_text = np.flatnonzero(rows[:, 0] >= 0)
        return int(is_text[0]), int(is_text[-1])

    def text(self, passage: int) -> str:
        """Return the text of a passage, without its document's title."""
        return self.answer(passage, *self.text_rows(passage))


Ask = Callable[[Document], list[Asked]]


def read_xquad(data: Path, cache: Path) -> Material:
    """Read and encode the English part.

    Raises:
        DataMissingError: if it is not there.
    """
    path = data / "xquad" / "xquad.en.json"
    if not path.is_file():
        raise DataMissingError(f"{path} is missing; --data names the folder that holds xquad/")
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    asked: dict[str, list[Asked]] = {}

    def documents() -> Iterator[tuple[int, Document]]:
        for number, article in enumerate(articles):
            for paragraph in article["paragraphs"]:
                name = str(len(asked))
                gold = [(each["question"], each["answers"][0]) for each in paragraph["qas"]]
                asked[name] = [Asked(q, a["text"], a["answer_start"]) for q, a in gold]
                title = article["title"].replace("_", " ")
                yield number, Document(name, paragraph["context"], title)

    return build(documents(), lambda document: asked[document.document_id], cache / "xquad.npy")


def build(documents: Iterator[tuple[int, Document]], ask: Ask, cached: Path) -> Material:
    """Cut documents of numbered articles into passages, encode them, and place the answers.

    Memories come from the default encoder, and from a file if it is there.
    """
    options = EncoderOptions()
    splitter = load_splitter(options)
    tokenizer = load_tokenizer(plan_encoder(options).checkpoint)
    passages: list[TokenizedPassage] = []
    spans: list[np.ndarray] = []
    texts, articles, owners, questions = [], [], [], []
    for owner, (number, document) in enumerate(documents):
        first = len(passages)
        passages += splitter.split(document)
        spans += [token_spans(tokenizer, document.text, each.passage) for each in passages[first:]]
        texts += [document.text] * (len(passages) - first)
        articles += [number] * (len(passages) - first)
        owners += [owner] * (len(passages) - first)
        for each in ask(document):
            ids = np.array(tokenizer.encode(each.text).ids, np.int64)
            place = _find(spans[first:], each.start, each.start + len(each.answer))
            passage = NO_PASSAGE if place[0] == NO_PASSAGE else first + place[0]
            questions.append(
                Question(each.text, ids, each.answer, number, owner, passage, *place[1:])
            )
    offsets = np.cumsum([0, *(len(each.token_ids) for each in passages)])
    if not cached.exists():
        np.save(cached, _encode(passages, offsets))
    memories = np.load(cached)
    if len(memories) != offsets[-1]:
        raise ShapeError(
            f"{cached}: got memories of {len(memories)} tokens, wanted {offsets[-1]}; it is of "
            "other data or another encoder: remove it"
        )
    return Material(
        memories=memories,
        token_ids=np.concatenate([each.token_ids for each in passages]).astype(np.int64),
        offsets=offsets,
        spans=np.concatenate(spans),
        texts=texts,
        articles=np.array(articles),
        documents=np.array(owners),
        questions=questions,
    )


def _find(spans: list[np.ndarray], start: int, end: int) -> tuple[int, int, int]:
    """Return the passage, first and last row that hold characters `start` to `end`."""
    for number, rows in enumerate(spans):
        first = np.flatnonzero((rows[:, 0] <= start) & (start < rows[:, 1]))
        last = np.flatnonzero((rows[:, 0] < end) & (end <= rows[:, 1]))
        if len(first) and len(last):
            return number, int(first[0]), int(last[0])
    return NO_PASSAGE, 0, 0


def _encode(passages: list[TokenizedPassage], offsets: np.ndarray) -> np.ndarray:
    """Return (T, D) float16."""
    encoder = load_encoder(EncoderOptions())
    memories = np.empty((offsets[-1], encoder.identity.memory_dim), np.float16)
    for batch in encoder.encode(passages):
        for i, row in enumerate(batch.rows):
            rows = slice(batch.offsets[i], batch.offsets[i + 1])
            memories[offsets[row] : offsets[row + 1]] = batch.memories[rows]
    return memories
