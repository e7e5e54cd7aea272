"""Questions with some of their passages, padded to tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from experiments.minilm_reader.material import NO_PASSAGE, Material, Question


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B questions with up to K passages of up to P tokens each.

    Attributes:
        question_ids: (B, Q) int64.
        question_mask: (B, Q) bool.
        passages: (B, K) int64, numbers of passages; NO_PASSAGE fills up.
        rows: (B, K, P) int64, rows of the memories; 0 fills up.
        memory_mask, text_mask: (B, K, P) bool.
        spans: (B, 3) int64: which of the K, first and last row; -1: none.
    """

    question_ids: torch.Tensor
    question_mask: torch.Tensor
    passages: torch.Tensor
    rows: torch.Tensor
    memory_mask: torch.Tensor
    text_mask: torch.Tensor
    spans: torch.Tensor


def training_batches(
    material: Material,
    questions: Sequence[Question],
    *,
    batch_size: int,
    num_passages: int,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """Yield all answerable questions once, in random order.

    Each comes with the passage that holds its answer and others of its article, in random order.
    """
    answerable = [each for each in questions if each.passage != NO_PASSAGE]
    order = rng.permutation(len(answerable))
    for start in range(0, len(order), batch_size):
        some = [answerable[number] for number in order[start : start + batch_size]]
        chosen = []
        for each in some:
            others = np.flatnonzero(material.articles == each.article)
            others = rng.permutation(others[others != each.passage])[: num_passages - 1]
            chosen.append(rng.permutation([each.passage, *others]))
        yield collate(material, some, chosen)


def reading_batches(
    material: Material, questions: Sequence[Question], *, batch_size: int, num_passages: int
) -> Iterator[Batch]:
    """Yield all questions in order, each with the passages of its paragraph and then distractors.

    See `candidates` for the order.
    """
    for start in range(0, len(questions), batch_size):
        some = questions[start : start + batch_size]
        chosen = [candidates(material, each)[:num_passages] for each in some]
        yield collate(material, some, chosen)


def candidates(material: Material, question: Question) -> np.ndarray:
    """Return the passages of a question's article: its paragraph's, then the others.

    Those are in random order, the same for all questions of a paragraph and in every call.
    """
    passages = np.flatnonzero(material.articles == question.article)
    is_own = material.documents[passages] == question.document
    others = np.random.default_rng(question.document).permutation(passages[~is_own])
    return np.concatenate([passages[is_own], others])


def collate(
    material: Material, questions: Sequence[Question], passages: Sequence[np.ndarray]
) -> Batch:
    """Pad questions and their passages."""
    lengths = np.diff(material.offsets)
    longest = max(len(each.token_ids) for each in questions)
    question_ids = np.zeros((len(questions), longest), np.int64)  # 0 is [PAD]
    question_mask = np.zeros_like(question_ids, dtype=bool)
    width = max(len(each) for each in passages)
    numbers = np.full((len(questions), width), NO_PASSAGE)
    spans = np.full((len(questions), 3), -1)
    for i, (question, chosen) in enumerate(zip(questions, passages, strict=True)):
        question_ids[i, : len(question.token_ids)] = question.token_ids
        question_mask[i, : len(question.token_ids)] = True
        numbers[i, : len(chosen)] = chosen
        places = np.flatnonzero(chosen == question.passage)
        if len(places):
            spans[i] = places[0], question.first, question.last
    sizes = np.where(numbers == NO_PASSAGE, 0, lengths[numbers])  # (B, K)
    within = np.arange(sizes.max())  # (P,)
    mask = within < sizes[..., None]  # (B, K, P)
    rows = np.where(mask, material.offsets[numbers][..., None] + within, 0)
    return Batch(
        question_ids=torch.from_numpy(question_ids),
        question_mask=torch.from_numpy(question_mask),
        passages=torch.from_numpy(numbers),
        rows=torch.from_numpy(rows),
        memory_mask=torch.from_numpy(mask),
        text_mask=torch.from_numpy(mask & (material.spans[rows, 0] >= 0)),
        spans=torch.from_numpy(spans),
    )
