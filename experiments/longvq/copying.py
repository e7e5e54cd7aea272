"""Selective copying: a few symbols among noise, to be said again in their order at the end.

    noise b noise noise a noise c … say say say  ->  b a c

Source: selective copying of Mamba (arXiv 2312.00752): 4,096 places, 16 symbols.
Does not: tell the model which symbol it is at; all places at the end look alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from experiments.longvq.batches import IGNORED, Batch

_TEST_SEED = 10**6  # no seed of a run
_TEST_BATCH = 100


@dataclass(frozen=True, slots=True)
class Copying:
    """The task.

    Args:
        length: places that hold noise or a symbol.
        num_copied: symbols in a text; as many places follow where they are to be said.
        num_symbols: different ones.
        num_items: texts of the test.
        batch_size: B, in training.
    """

    length: int
    num_copied: int
    num_symbols: int
    num_items: int
    batch_size: int

    num_classes = None
    groups = ("all",)
    in_bits = False

    @property
    def vocab_size(self) -> int:
        """Symbols, then noise and the sign to speak."""
        return self.num_symbols + 2

    def training(self, seed: int) -> Iterator[Batch]:
        """Yield batches, none of them twice."""
        rng = np.random.default_rng(seed)
        while True:
            yield self._draw(self.batch_size, rng)

    def test(self, seed: int) -> Iterator[Batch]:
        """Yield the texts of the test."""
        rng = np.random.default_rng(_TEST_SEED)
        for start in range(0, self.num_items, _TEST_BATCH):
            count = min(_TEST_BATCH, self.num_items - start)
            batch = self._draw(count, rng)
            yield Batch(batch.tokens, batch.targets, items=torch.arange(start, start + count))

    def floors(self) -> Mapping[str, float]:
        """Return the share that is right if any symbol is said."""
        return {"any symbol": 1 / self.num_symbols}

    def _draw(self, count: int, rng: np.random.Generator) -> Batch:
        noise, say = self.num_symbols, self.num_symbols + 1
        symbols = rng.integers(self.num_symbols, size=(count, self.num_copied))
        places = rng.random((count, self.length)).argsort(axis=1)[:, : self.num_copied]
        tokens = np.full((count, self.length + self.num_copied), noise)
        np.put_along_axis(tokens, np.sort(places, axis=1), symbols, axis=1)
        tokens[:, self.length :] = say
        targets = np.full_like(tokens, IGNORED)
        targets[:, self.length :] = symbols
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets))
