"""Film reviews, byte by byte: does one praise the film or not?

There are only 2,000 reviews, half of them for, so that no test can have 10,000 items: each seed
tests a fold of them that it has not learnt from, whole reviews, and reviews are what intervals are
drawn over. With as many seeds as folds every review is tested once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch

from experiments.longvq.batches import Batch, in_epochs, in_order, pad
from memstore.types import Document

_ARCHIVE = "movie_reviews/"
_NUM_BYTES = 256
_TEST_BATCH = 32
_FOLDS_SEED = 0


@dataclass(frozen=True, slots=True)
class ReviewsOptions:
    """How much of a review is read, and how many are tested.

    Args:
        most_bytes: of a review, its first ones, in the test.
        trained_bytes: of a review, in training: a stretch of it that is drawn anew every time.
        num_folds: a seed tests one of so many parts, and learns from the others.
        batch_size: B, in training.
    """

    most_bytes: int
    trained_bytes: int
    num_folds: int
    batch_size: int


class Reviews:
    """The task.

    Args:
        options: how much is read.
        documents: the reviews, and then what else there is; that is not read.
    """

    vocab_size: int = _NUM_BYTES
    num_classes: int | None = 2
    groups: tuple[str, ...] = ("all",)
    in_bits: bool = False

    def __init__(self, options: ReviewsOptions, documents: Iterable[Document]) -> None:
        self.options = options
        reviews = list(takewhile(lambda each: each.document_id.startswith(_ARCHIVE), documents))
        texts = [each.text.encode()[: options.most_bytes] for each in reviews]
        self.texts = [np.frombuffer(text, np.uint8) for text in texts]
        self.classes = np.array([each.document_id.split("/")[1] == "pos" for each in reviews])
        self.num_items = len(reviews)
        self.folds = _folds(self.classes, options.num_folds)

    def training(self, seed: int) -> Iterator[Batch]:
        """Yield batches of stretches of reviews that are not in the seed's fold."""
        rng = np.random.default_rng(seed)
        learnt = np.flatnonzero(self.folds != seed % self.options.num_folds)
        lengths = np.array([len(self.texts[number]) for number in learnt.tolist()])
        most = self.options.trained_bytes
        for chosen in in_epochs(np.minimum(lengths, most), self.options.batch_size, rng):
            numbers = learnt[chosen]
            starts = rng.integers(np.maximum(lengths[chosen] - most, 0) + 1).tolist()
            rows = [
                self.texts[number][start : start + most]
                for number, start in zip(numbers.tolist(), starts, strict=True)
            ]
            yield self._batch(rows, numbers, has_items=False)

    def test(self, seed: int) -> Iterator[Batch]:
        """Yield the reviews of the seed's fold, the shortest first."""
        tested = np.flatnonzero(self.folds == seed % self.options.num_folds)
        lengths = np.array([len(self.texts[number]) for number in tested.tolist()])
        for chosen in in_order(lengths, _TEST_BATCH):
            numbers = tested[chosen]
            yield self._batch([self.texts[number] for number in numbers.tolist()], numbers)

    def floors(self) -> Mapping[str, float]:
        """Return what is right if the words of a review are counted, whatever their order."""
        right = sum(
            _count_words(self.texts, self.classes, self.folds == fold)
            for fold in range(self.options.num_folds)
        )
        return {"one of two": 0.5, "words, whatever their order": right / self.num_items}

    def _batch(
        self, rows: list[np.ndarray], numbers: np.ndarray, *, has_items: bool = True
    ) -> Batch:
        tokens, mask = pad(rows)
        targets = torch.from_numpy(self.classes[numbers].astype(np.int64))
        return Batch(tokens, targets, mask, torch.from_numpy(numbers) if has_items else None)


def _folds(classes: np.ndarray, num_folds: int) -> np.ndarray:
    """Return (N,) the fold of each review, with as many of either class in each."""
    rng = np.random.default_rng(_FOLDS_SEED)
    folds = np.empty(len(classes), np.int64)
    for value in (False, True):
        numbers = rng.permutation(np.flatnonzero(classes == value))
        folds[numbers] = np.arange(len(numbers)) % num_folds
    return folds


def _count_words(texts: list[np.ndarray], classes: np.ndarray, is_tested: np.ndarray) -> int:
    """Return how many tested reviews a naive Bayes over the words in them gets right."""
    words = [set(text.tobytes().split()) for text in texts]
    counts: tuple[Counter[bytes], Counter[bytes]] = (Counter(), Counter())
    for number in np.flatnonzero(~is_tested).tolist():
        counts[int(classes[number])].update(words[number])
    right = 0
    for number in np.flatnonzero(is_tested).tolist():
        for_it = sum(
            np.log((counts[1][word] + 1) / (counts[0][word] + 1)) for word in words[number]
        )
        right += int((for_it > 0) == classes[number])
    return right
