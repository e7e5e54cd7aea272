"""Real text: passages of XQuAD's articles, one or several a document, and their questions.

The model learns from other text, which has no questions: a few words that follow one another are
taken out of each passage and asked for (the inverse cloze task, arXiv 1906.00300). Tokens begin
with the word vectors of the default encoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from benchmarks.harness import DataMissingError
from benchmarks.running_text import read_text
from encoder_jobs.training_text import open_tokenizer
from experiments.long_documents.task import Batch, Question, Test
from memstore.encoders import EncoderOptions
from memstore.encoders.identity import plan_encoder
from memstore.text import load_tokenizer
from memstore.types import Document

_WORD_VECTORS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Articles:
    """How batches are made.

    Args:
        data: folder that holds text/ and xquad/.
        passage_tokens: of a passage; in training, with what is taken out.
        training_passages: of a document, a piece of a text.
        batch_documents: in a batch, with a question for each passage.
        question_tokens: least and most of what is taken out.
        joined: articles of a document of the test, one after the other.
    """

    data: Path = field(repr=False)
    passage_tokens: int = 64
    training_passages: int = 8
    batch_documents: int = 8
    question_tokens: tuple[int, int] = (6, 16)
    joined: int = 1

    @cached_property
    def _checkpoint(self) -> Path:
        return plan_encoder(EncoderOptions()).checkpoint.folder

    @property
    def tokenizer(self) -> str:
        """The default encoder's, without special tokens."""
        return open_tokenizer(str(self._checkpoint)).content.decode()

    @cached_property
    def word_vectors(self) -> np.ndarray | None:
        """The default encoder's, (V, 384)."""
        vectors: np.ndarray = load_file(self._checkpoint / "model.safetensors")[_WORD_VECTORS]
        return vectors.astype(np.float32)

    @property
    def vocab_size(self) -> int:
        """V, of the tokenizer."""
        vectors = self.word_vectors
        assert vectors is not None
        return len(vectors)

    @cached_property
    def _texts(self) -> list[np.ndarray]:
        """Token ids of the texts that are long enough for a document."""
        tokenizer = load_tokenizer(self._checkpoint / "tokenizer.json")
        found = []
        for document in read_text(self.data / "text"):
            ids = tokenizer.encode(document.text, add_special_tokens=False).ids
            if len(ids) >= self._document_tokens:
                found.append(np.array(ids, np.int64))
        return found

    @property
    def _document_tokens(self) -> int:
        return self.passage_tokens * self.training_passages

    def training(self, seed: int) -> Iterator[Batch]:
        """Yield batches of pieces of texts, long ones oftener."""
        rng = np.random.default_rng(seed)
        lengths = np.array([len(ids) for ids in self._texts])
        shares = lengths / lengths.sum()
        while True:
            documents: list[list[np.ndarray]] = []
            questions: list[np.ndarray] = []
            least, most = self.question_tokens
            num_taken = int(rng.integers(least, most + 1))
            for text in rng.choice(len(lengths), self.batch_documents, p=shares):
                start = int(rng.integers(lengths[text] - self._document_tokens + 1))
                ids = self._texts[text][start : start + self._document_tokens]
                parted = [
                    _take_out(each, num_taken, rng)
                    for each in np.split(ids, self.training_passages)
                ]
                documents.append([rest for rest, _ in parted])
                questions += [taken for _, taken in parted]
            yield Batch(documents, questions, gold=range(len(questions)))

    def test(self) -> Test:
        """Return the English articles and all questions."""
        path = self.data / "xquad" / "xquad.en.json"
        if not path.is_file():
            raise DataMissingError(f"{path} is missing; --data names the folder that holds xquad/")
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        documents, questions = [], []
        for first in range(0, len(articles), self.joined):
            document_id, start, contexts = f"document{first}", 0, []
            for number, article in enumerate(articles[first : first + self.joined], first):
                for paragraph in article["paragraphs"]:
                    for each in paragraph["qas"]:
                        place = start + each["answers"][0]["answer_start"]
                        asked = Question(each["question"], document_id, f"{number}", place, 0)
                        questions.append(asked)
                    contexts.append(paragraph["context"])
                    start += len(paragraph["context"]) + 1
            title = "" if self.joined > 1 else articles[first]["title"].replace("_", " ")
            documents.append(Document(document_id, " ".join(contexts), title=title))
        return Test(documents, questions, ["all"])


def _take_out(
    passage: np.ndarray, num_taken: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a passage without some tokens that follow one another, and those."""
    start = int(rng.integers(len(passage) - num_taken + 1))
    taken = slice(start, start + num_taken)
    return np.delete(passage, taken), passage[taken]
