"""Associative recall with many questions: pairs are shown, later keys ask for their values.

    key value key value … filler … key (its value is wanted here) filler …

Source: MQAR of zoology (arXiv 2312.04927): keys from the lower half of the vocabulary, values from
the upper one, no two alike in a text; every key is asked for once, at an even place after the
pairs, the first of them drawn with probability ~ 1 / gap^(1 - 0.01); all else is filled at random.
Differs: batches are drawn as training goes, so that none is read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from experiments.longvq.batches import IGNORED, Batch

_POWER = 0.01
_TEST_SEED = 10**6  # no seed of a run
_TEST_BATCH = 100


@dataclass(frozen=True, slots=True)
class Part:
    """Texts of one length.

    Args:
        length: L, even.
        num_pairs: shown, and asked for; at most a quarter of L.
        share: of the training batches, in parts of all; in the test, how many texts.
    """

    length: int
    num_pairs: int
    share: int


@dataclass(frozen=True, slots=True)
class Recall:
    """The task.

    Args:
        vocab_size: V; the paper's is 8,192.
        train: parts of training.
        tested: parts of the test.
        batch_size: B, in training.
        window: an answer that stands nearer than this to its question counts as near.
    """

    vocab_size: int
    train: tuple[Part, ...]
    tested: tuple[Part, ...]
    batch_size: int
    window: int

    num_classes = None
    groups = ("nearer than the band", "beyond the band")
    in_bits = False

    @property
    def num_items(self) -> int:
        """Texts of the test."""
        return sum(part.share for part in self.tested)

    def training(self, seed: int) -> Iterator[Batch]:
        """Yield batches, each of one part."""
        rng = np.random.default_rng(seed)
        shares = np.array([part.share for part in self.train], np.float64)
        while True:
            part = self.train[int(rng.choice(len(self.train), p=shares / shares.sum()))]
            yield self._draw(part, self.batch_size, rng)

    def test(self, seed: int) -> Iterator[Batch]:
        """Yield the texts of the test, one part after the other."""
        rng = np.random.default_rng(_TEST_SEED)
        done = 0
        for part in self.tested:
            for start in range(0, part.share, _TEST_BATCH):
                count = min(_TEST_BATCH, part.share - start)
                yield self._draw(part, count, rng, first_item=done + start)
            done += part.share

    def floors(self) -> Mapping[str, float]:
        """Return the share that is right without looking at the question.

        Pairs are not alike: the first of a text is oftenest asked for first.
        """
        asked = sum(part.share * part.num_pairs for part in self.tested)
        return {
            "any value that was shown": self.num_items / asked,
            "of the pair oftenest asked for at that place": self._right_by_place() / asked,
        }

    def _right_by_place(self) -> int:
        rng = np.random.default_rng(_TEST_SEED)
        right = 0
        for part in self.tested:
            batch = self._draw(part, part.share, rng)
            tokens, targets = batch.tokens.numpy(), batch.targets.numpy()
            shown = tokens[:, 1 : 2 * part.num_pairs : 2]
            texts, places = np.nonzero(targets != IGNORED)
            pairs = (shown[texts] == targets[texts, places][:, None]).argmax(axis=1)
            counts = np.zeros((part.length, part.num_pairs), np.int64)
            np.add.at(counts, (places, pairs), 1)
            right += int(counts.max(axis=1).sum())
        return right

    def _draw(
        self, part: Part, count: int, rng: np.random.Generator, first_item: int | None = None
    ) -> Batch:
        half, num_pairs, shown = self.vocab_size // 2, part.num_pairs, 2 * part.num_pairs
        keys = 1 + _distinct(np.zeros(half - 1), count, num_pairs, rng)
        values = half + _distinct(np.zeros(self.vocab_size - half), count, num_pairs, rng)
        space = np.arange(1, (part.length - shown) // 2 + 1)
        gaps = _distinct((_POWER - 1) * np.log(space), count, num_pairs, rng)
        tokens = rng.integers(self.vocab_size, size=(count, part.length))
        tokens[:, 0:shown:2], tokens[:, 1:shown:2] = keys, values
        asked = shown + 2 * gaps  # (B, P), where a key stands again
        np.put_along_axis(tokens, asked, keys, axis=1)
        targets = np.full_like(tokens, IGNORED)
        np.put_along_axis(targets, asked, values, axis=1)
        groups = np.zeros_like(tokens)
        away = asked - (1 + 2 * np.arange(num_pairs))
        np.put_along_axis(groups, asked, (away >= self.window).astype(np.int64), axis=1)
        items = None if first_item is None else torch.arange(first_item, first_item + count)
        return Batch(
            torch.from_numpy(tokens),
            torch.from_numpy(targets),
            items=items,
            groups=torch.from_numpy(groups),
        )


def _distinct(
    logits: np.ndarray, count: int, num_drawn: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw (count, num_drawn) numbers below (N,), no two of a row alike, one after the other.

    Source: the greatest of logits with Gumbel noise are such a draw (arXiv 1903.06059).
    """
    noisy = logits + rng.gumbel(size=(count, len(logits)))
    return np.argsort(-noisy, axis=1)[:, :num_drawn]
