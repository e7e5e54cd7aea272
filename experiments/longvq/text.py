"""Running English text, byte by byte: which byte comes next?

Whole documents are held out. They are read in stretches as long as those of training, so that no
model is asked about a length that it has not learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from experiments.longvq.batches import IGNORED, Batch

_NUM_BYTES = 256
_TEST_BATCH = 32
_BETWEEN = b"\n"


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How much is read.

    Args:
        length: L, bytes of a stretch.
        most_stretches: of a held-out document, its first ones.
        batch_size: B, in training.
    """

    length: int
    most_stretches: int
    batch_size: int


class Text:
    """The task.

    Args:
        options: how much is read.
        train: documents to learn from.
        held_out: others.
    """

    vocab_size: int = _NUM_BYTES
    num_classes: int | None = None
    groups: tuple[str, ...] = ("all",)
    in_bits: bool = True

    def __init__(self, options: TextOptions, train: Sequence[str], held_out: Sequence[str]) -> None:
        self.options = options
        self.trained = _to_array(_BETWEEN.join(text.encode() for text in train))
        most = options.length * options.most_stretches + 1
        self.tested = [_to_array(text.encode()[:most]) for text in held_out]
        self.num_items = len(self.tested)

    def training(self, seed: int) -> Iterator[Batch]:
        """Yield stretches from anywhere."""
        rng = np.random.default_rng(seed)
        length, batch_size = self.options.length, self.options.batch_size
        while True:
            starts = rng.integers(len(self.trained) - length, size=(batch_size, 1))
            spans = torch.from_numpy(self.trained[starts + np.arange(length + 1)].astype(np.int64))
            yield Batch(spans[:, :-1], spans[:, 1:])

    def test(self, seed: int) -> Iterator[Batch]:
        """Yield the stretches of all held-out documents."""
        length = self.options.length
        stretches = [
            (number, text[start : start + length + 1])
            for number, text in enumerate(self.tested)
            for start in range(0, len(text) - 1, length)
        ]
        for first in range(0, len(stretches), _TEST_BATCH):
            some = stretches[first : first + _TEST_BATCH]
            tokens = np.zeros((len(some), length), np.int64)
            targets = np.full_like(tokens, IGNORED)
            for row, (_, text) in enumerate(some):
                tokens[row, : len(text) - 1] = text[:-1]
                targets[row, : len(text) - 1] = text[1:]
            items = torch.tensor([number for number, _ in some])
            mask = torch.from_numpy(targets != IGNORED)
            yield Batch(torch.from_numpy(tokens), torch.from_numpy(targets), mask, items)

    def floors(self) -> Mapping[str, float]:
        """Return the bits a byte that counting takes, of bytes alone and after one or two."""
        names = ("bytes by their frequency", "after one byte", "after two bytes")
        return {name: self._count(order) for order, name in enumerate(names)}

    def _count(self, order: int) -> float:
        """Return the bits a byte, given so many before it; a stretch's first ones are left out."""
        counts = np.full((_NUM_BYTES**order, _NUM_BYTES), 0.05)
        np.add.at(counts, _contexts(self.trained, order), 1)
        shares = counts / counts.sum(axis=1, keepdims=True)
        bits = [-np.log2(shares[_contexts(text, order)]) for text in self.tested]
        return float(np.concatenate(bits).mean())


def _contexts(text: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of what stands before each byte, and the byte."""
    wide = text.astype(np.int64)
    before = np.zeros(len(wide) - order, np.int64)
    for place in range(order):
        before = before * _NUM_BYTES + wide[place : len(wide) - order + place]
    return before, wide[order:]


def _to_array(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)
