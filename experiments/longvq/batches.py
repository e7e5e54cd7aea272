"""What a task gives a model to read, and what is kept of what the model made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

IGNORED = -100
POOL = 32
"""Batches that are sorted by length together: more padding is saved, less is left to chance."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some texts and what is to be made of them.

    Attributes:
        tokens: (B, L) int64.
        targets: (B,) int64, the class of each text; or (B, L) int64, the token that each state
            should give, -100 where nothing is asked.
        mask: (B, L) bool, there is a token; None: everywhere.
        items: (B,) int64, number of the item that a text is of, or is a part of; None in training.
        groups: (B, L) int64, the column in which the outcome of a target counts; None: the first.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor | None = None
    items: torch.Tensor | None = None
    groups: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch elsewhere."""
        parts = (self.tokens, self.targets, self.mask, self.items, self.groups)
        return Batch(*(None if each is None else each.to(device) for each in parts))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What a model, or a rule, made of the items of a test.

    Attributes:
        sums: (N, G) float64, of each item by group: right answers, or bits.
        counts: (N, G) int64, answers or bytes that they are of; 0: not tested.
    """

    sums: np.ndarray
    counts: np.ndarray


class Task(Protocol):
    """What is learnt and tested.

    Attributes:
        vocab_size: V, token ids.
        num_classes: of a text; None: tokens are to be given instead.
        num_items: N, of the test.
        groups: names of the columns in which outcomes count.
        in_bits: outcomes are bits, the fewer the better; else right answers.
    """

    @property
    def vocab_size(self) -> int: ...  # noqa: D102 - said above
    @property
    def num_classes(self) -> int | None: ...  # noqa: D102
    @property
    def num_items(self) -> int: ...  # noqa: D102
    @property
    def groups(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def in_bits(self) -> bool: ...  # noqa: D102

    def training(self, seed: int) -> Iterator[Batch]:
        """Yield batches without end; a seed gives the same ones every time."""

    def test(self, seed: int) -> Iterator[Batch]:
        """Yield every item of the test that belongs to a seed, once."""

    def floors(self) -> Mapping[str, float]:
        """Return what rules reach that need no model, by name, in the unit of the task."""


def pad(rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return rows of token ids as (B, L) int64, zeros behind, and their mask; None if all are L."""
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), int(lengths.max())), np.int64)
    mask = np.arange(tokens.shape[1]) < lengths[:, None]
    tokens[mask] = np.concatenate(rows)
    return torch.from_numpy(tokens), None if mask.all() else torch.from_numpy(mask)


def in_epochs(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield numbers of texts for a batch, without end, texts of like lengths together.

    Args:
        lengths: (N,) of the texts; each is drawn once before any is drawn again.
        batch_size: B, at most N; what is left over at the end of an epoch is left out.
        rng: decides the order.
    """
    pool = POOL * batch_size
    whole = len(lengths) - len(lengths) % batch_size
    if not whole:
        raise ValueError(f"batch_size: got {batch_size}, wanted at most {len(lengths)} texts")
    while True:
        order = rng.permutation(len(lengths))[:whole]
        pools = [order[start : start + pool] for start in range(0, whole, pool)]
        order = np.concatenate([each[np.argsort(lengths[each])] for each in pools])
        batches = order.reshape(-1, batch_size)
        yield from batches[rng.permutation(len(batches))]


def in_order(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yield numbers of all texts, the shortest first."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
