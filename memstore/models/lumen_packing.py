"""A question before each of its passages, without padding between the two.

Positions in T5 are distances between tokens, so padding between question and passage would push
them apart; it all goes to the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from memstore.errors import ShapeError


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """R sequences of [question; passage], one for each passage that is there.

    A question without a passage has one row of its own, so that it is answered all the same.

    Attributes:
        hidden: (R, L, D).
        mask: (R, L) bool; True first, then False.
        rows: (R,) int64, the places of the sequences among B * K.
        num_passages: K, 1 or more.
        num_questions: B.
    """

    hidden: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor
    num_passages: int
    num_questions: int

    def side_by_side(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Lay all sequences of a question into one: (B, K * L, D), and its mask (B, K * L) bool.

        Args:
            hidden: (R, L, D), what became of `self.hidden`.
        """
        _, length, dim = hidden.shape
        count = self.num_questions * self.num_passages
        laid = hidden.new_zeros(count, length, dim).index_copy(0, self.rows, hidden)
        mask = self.mask.new_zeros(count, length).index_copy(0, self.rows, self.mask)
        shape = self.num_questions, self.num_passages * length
        return laid.reshape(*shape, dim), mask.reshape(shape)


def pack_rows(
    questions: torch.Tensor,
    question_mask: torch.Tensor,
    memories: torch.Tensor,
    memory_mask: torch.Tensor,
) -> PackedRows:
    """Put each question before its passages.

    Args:
        questions: (B, Q, D).
        question_mask: (B, Q), True or 1 for a token; padding may be anywhere.
        memories: (B, K, P, D), taken to the dtype of `questions`; K and P may be 0. What padding
            holds does not matter, a NaN included.
        memory_mask: (B, K, P); a passage without a token is one that is not there.

    Raises:
        ShapeError: if the shapes do not fit together or a question has no token.
    """
    _check(questions, question_mask, memories, memory_mask)
    if memories.shape[1] == 0:
        memories = memories.new_zeros(len(memories), 1, *memories.shape[2:])
        memory_mask = memory_mask.new_zeros(len(memories), 1, memories.shape[2])
    question_mask, memory_mask = question_mask.bool(), memory_mask.bool()
    num_questions, num_passages, _ = memory_mask.shape
    runs = memory_mask.any(2)  # (B, K)
    alone = torch.zeros_like(runs)
    alone[:, 0] = ~runs.any(1)
    rows = (runs | alone).flatten().nonzero().squeeze(1)  # (R,)
    owners = rows // num_passages
    passages = memories.flatten(0, 1)[rows].to(questions.dtype)
    hidden = torch.cat([questions[owners], passages], 1)  # (R, Q + P, D)
    mask = torch.cat([question_mask[owners], memory_mask.flatten(0, 1)[rows]], 1)
    longest = int(mask.sum(1).max())
    order = torch.argsort((~mask).to(torch.int8), dim=1, stable=True)[:, :longest]  # (R, L)
    mask = mask.gather(1, order)
    hidden = hidden.gather(1, order.unsqueeze(2).expand(-1, -1, hidden.shape[2]))
    # A weight of zero times NaN is NaN.
    hidden = hidden.masked_fill(~mask.unsqueeze(2), 0)
    return PackedRows(hidden, mask, rows, num_passages, num_questions)


def _check(
    questions: torch.Tensor,
    question_mask: torch.Tensor,
    memories: torch.Tensor,
    memory_mask: torch.Tensor,
) -> None:
    if questions.ndim != 3 or question_mask.shape != questions.shape[:2] or not len(questions):
        raise ShapeError(
            f"questions: got {tuple(questions.shape)} with a mask {tuple(question_mask.shape)}, "
            "wanted (B, Q, D) and (B, Q) with B ≥ 1"
        )
    if memories.ndim != 4 or memory_mask.shape != memories.shape[:3]:
        raise ShapeError(
            f"memories: got {tuple(memories.shape)} with a mask {tuple(memory_mask.shape)}, "
            "wanted (B, K, P, D) and (B, K, P)"
        )
    count, _, dim = questions.shape
    if memories.shape[0] != count or memories.shape[3] != dim:
        raise ShapeError(
            f"memories: got {memories.shape[0]} questions' passages of width "
            f"{memories.shape[3]}, wanted {count} of width {dim}; use the memory encoder that this "
            "model was saved with"
        )
    if not bool(question_mask.bool().any(1).all()):
        raise ShapeError("questions: got one without tokens, wanted one token or more")
