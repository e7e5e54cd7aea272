"""What a task of long documents is: batches to learn from, and documents with questions to test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from memstore.types import Document


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Documents and questions.

    Attributes:
        documents: of each its passages, (T_i,) integers of token ids.
        questions: token ids of the questions.
        gold: of each the passage that answers it, counted over all passages of the batch.
    """

    documents: Sequence[Sequence[np.ndarray]]
    questions: Sequence[np.ndarray]
    gold: Sequence[int]


@dataclass(frozen=True, slots=True)
class Question:
    """A question of the test.

    Attributes:
        text: what is asked.
        document_id: whose passage answers it.
        source: what it is about; questions of one source are drawn together in intervals.
        place: a character of the answer, in the document's text.
        group: which column of the table it counts to.
    """

    text: str
    document_id: str
    source: str
    place: int
    group: int


@dataclass(frozen=True, slots=True)
class Test:
    """Documents, and questions to all of them together.

    Attributes:
        documents: what is searched.
        questions: about them.
        groups: names of the groups of questions.
        floor: recall@1 of who sees each passage alone; None: unknown.
    """

    documents: Sequence[Document]
    questions: Sequence[Question]
    groups: Sequence[str]
    floor: float | None = None


class Task(Protocol):
    """Where documents and questions come from."""

    @property
    def tokenizer(self) -> str:
        """Content of the tokenizer.json."""
        ...

    @property
    def vocab_size(self) -> int:
        """V, of the tokenizer."""
        ...

    @property
    def passage_tokens(self) -> int:
        """Tokens of a passage."""
        ...

    @property
    def word_vectors(self) -> np.ndarray | None:
        """(V, D) float32, what tokens mean before anything is learnt; None: nothing."""
        ...

    def training(self, seed: int) -> Iterator[Batch]:
        """Yield batches without end."""
        ...

    def test(self) -> Test:
        """Return the test, the same under every seed."""
        ...
