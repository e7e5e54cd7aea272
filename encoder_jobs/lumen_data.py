"""Questions as token ids: prepared once for a run, then cut into batches step by step.

Which questions a step sees follows from its number and the seed alone, so that a run that goes on
after a crash needs no state to see the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder_jobs.lumen_questions import QuestionLine, Text
from encoder_jobs.lumen_tokens import ModelTokens
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_steps import shuffled
from memstore.encoders.batching import pad
from memstore.encoders.huggingface import MAX_QUESTION_TOKENS
from memstore.evaluation.files import malformed

_NO_LABEL = -100  # what cross-entropy passes over
_PARTS = ("questions", "passages", "passages_of", "answers", "answers_of")


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """N questions.

    Attributes:
        questions: token ids of question i.
        passages: token ids of each passage once, however many questions share it.
        passages_of: rows of `passages`, those of question i.
        answers: token ids of answers, with the end token.
        answers_of: rows of `answers`, those of question i.
        texts: the answers of question i, as they were given.
    """

    questions: Ragged
    passages: Ragged
    passages_of: Ragged
    answers: Ragged
    answers_of: Ragged
    texts: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.questions)

    def answer(self, example: int, epoch: int) -> np.ndarray:
        """Return the ids of one right answer; which one, changes from epoch to epoch."""
        rows = self.answers_of[example]
        return self.answers[rows[epoch % len(rows)]]

    def to_tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return all but the texts, for a file of tensors."""
        tensors: dict[str, torch.Tensor] = {}
        for name in _PARTS:
            tensors |= getattr(self, name).to_tensors(f"{prefix}.{name}")
        return tensors

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, torch.Tensor], prefix: str, texts: Sequence[Sequence[str]]
    ) -> Examples:
        """Read back what `to_tensors` gave."""
        parts = {name: Ragged.from_tensors(tensors, f"{prefix}.{name}") for name in _PARTS}
        return cls(**parts, texts=tuple(map(tuple, texts)))


def prepare_examples(
    path: Path, lines: Sequence[QuestionLine], found: Iterable[list[Text]], tokens: ModelTokens
) -> Examples:
    """Tokenize questions, their passages and answers.

    Args:
        path: the file, for errors.
        lines: N questions.
        found: N lists of passages; each is cut at the window, and left out if it has no token.
        tokens: of the model.

    Raises:
        ConfigError: if a question is too long or all its passages are without tokens; with its
            line.
    """
    rows: dict[Text, int | None] = {}
    passages: list[np.ndarray] = []
    passages_of, questions = [], []
    for line, texts in zip(lines, found, strict=True):
        for text in texts:
            if text not in rows:
                ids = tokens.passage(*text)
                rows[text] = None if ids is None else len(passages)
                passages += [] if ids is None else [ids]
        own = [row for text in texts if (row := rows[text]) is not None]
        if not own:
            raise malformed(path, line.line, "not one of its passages has a token")
        passages_of.append(list(dict.fromkeys(own)))
        questions.append(_question(path, line, tokens))
    answers = [[tokens.answer(text) for text in line.answers] for line in lines]
    ends = np.cumsum([0, *map(len, answers)])
    return Examples(
        questions=Ragged.of(questions),
        passages=Ragged.of(passages),
        passages_of=Ragged.of(passages_of),
        answers=Ragged.of([ids for each in answers for ids in each]),
        answers_of=Ragged(np.arange(ends[-1], dtype=np.int32), ends.astype(np.int64)),
        texts=tuple(line.answers for line in lines),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B questions with the N different passages among theirs.

    Attributes:
        question_ids, question_mask: (B, Q) int64 and bool.
        passage_ids, passage_mask: (N, P) int64 and bool.
        rows: (B, K) int64 rows of the passages; N where a question has fewer than others.
        labels: (B, T) int64.
        num_labels: tokens of the answers.
    """

    question_ids: torch.Tensor
    question_mask: torch.Tensor
    passage_ids: torch.Tensor
    passage_mask: torch.Tensor
    rows: torch.Tensor
    labels: torch.Tensor
    num_labels: int


def collate(
    examples: Examples, chosen: Sequence[tuple[int, int]], pad_id: int, device: torch.device
) -> Batch:
    """Stack questions, each given by its number and the epoch that it is seen in."""
    numbers = [example for example, _ in chosen]
    questions = pad([examples.questions[number] for number in numbers], pad_id)
    own = [examples.passages_of[number] for number in numbers]
    different, places = np.unique(np.concatenate(own), return_inverse=True)
    rows = np.full((len(own), max(map(len, own))), len(different), np.int64)
    rows[pad(own, 0)[1].astype(bool)] = places
    passages = pad([examples.passages[row] for row in different], pad_id)
    labels, is_label = pad([examples.answer(*each) for each in chosen], pad_id)
    labels[is_label == 0] = _NO_LABEL

    def move(array: Any) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    return Batch(
        question_ids=move(questions[0]),
        question_mask=move(questions[1]).bool(),
        passage_ids=move(passages[0]),
        passage_mask=move(passages[1]).bool(),
        rows=move(rows),
        labels=move(labels),
        num_labels=int(is_label.sum()),
    )


def choose(step: int, *, num_examples: int, batch_size: int, seed: int) -> list[tuple[int, int]]:
    """Return the `batch_size` questions of a step, counted from 1: their numbers and epochs.

    Every epoch shuffles all questions anew; a batch may reach from one into the next.
    """
    first = (step - 1) * batch_size
    places = (divmod(place, num_examples) for place in range(first, first + batch_size))
    return [(int(shuffled(num_examples, seed, epoch)[at]), epoch) for epoch, at in places]


def _question(path: Path, line: QuestionLine, tokens: ModelTokens) -> list[int]:
    ids = tokens.question(line.text)
    if len(ids) > MAX_QUESTION_TOKENS:
        raise malformed(
            path,
            line.line,
            f"a question of {len(ids)} tokens, wanted at most {MAX_QUESTION_TOKENS}; shorten it",
        )
    return ids
