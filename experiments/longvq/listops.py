"""ListOps as a task: the value of an expression, to be told from its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from encoder_jobs.ragged import Ragged
from experiments.longvq.batches import Batch, in_epochs, in_order, pad
from experiments.longvq.expressions import (
    NUM_DIGITS,
    NUM_TOKENS,
    Expressions,
    ListOpsOptions,
    draw_distinct,
)
from experiments.longvq.shortcuts import shortcut_shares
from experiments.results import locked

_TEST_BATCH = 256


class ListOps:
    """The task.

    Args:
        options: which expressions.
        cache: folder that keeps them, since drawing the paper's takes minutes.
    """

    vocab_size: int = NUM_TOKENS
    num_classes: int | None = NUM_DIGITS
    groups: tuple[str, ...] = ("all",)
    in_bits: bool = False

    def __init__(self, options: ListOpsOptions, cache: Path) -> None:
        self.options = options
        self.num_items = options.num_test
        every = _kept(options, cache)
        numbers = np.arange(len(every))
        self.tested = every.take(numbers[: options.num_test])
        self.trained = every.take(numbers[options.num_test :])

    def training(self, seed: int) -> Iterator[Batch]:
        """Yield batches of expressions of like lengths, in an order that the seed decides."""
        rng = np.random.default_rng(seed)
        for numbers in in_epochs(self.trained.texts.lengths, self.options.batch_size, rng):
            yield _batch(self.trained, numbers)

    def test(self, seed: int) -> Iterator[Batch]:
        """Yield the expressions of the test, the shortest first."""
        for numbers in in_order(self.tested.texts.lengths, _TEST_BATCH):
            yield _batch(self.tested, numbers, has_items=True)

    def floors(self) -> Mapping[str, float]:
        """Return what is right by shortcuts."""
        return shortcut_shares(self.trained, self.tested)


def _batch(found: Expressions, numbers: np.ndarray, *, has_items: bool = False) -> Batch:
    tokens, mask = pad([found.texts[number] for number in numbers.tolist()])
    targets = torch.from_numpy(found.values[numbers])
    return Batch(tokens, targets, mask, torch.from_numpy(numbers) if has_items else None)


def _kept(options: ListOpsOptions, cache: Path) -> Expressions:
    """Read the expressions of a folder; draw them if nobody has."""
    drawn = {name: value for name, value in asdict(options).items() if name != "batch_size"}
    file = cache / ("listops " + " ".join(str(value) for value in drawn.values()) + ".npz")
    with locked(file.with_suffix(".lock")):
        if not file.exists():
            found = draw_distinct(options, options.num_train + options.num_test)
            whole = file.with_suffix(".part.npz")  # a killed run leaves no half
            np.savez(
                whole,
                tokens=found.texts.values.astype(np.uint8),
                offsets=found.texts.offsets,
                values=found.values,
            )
            whole.replace(file)
    with np.load(file) as arrays:
        texts = Ragged(arrays["tokens"].astype(np.int32), arrays["offsets"])
        return Expressions(texts, arrays["values"])
