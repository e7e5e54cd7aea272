"""Expressions of ListOps: nested lists of digits under MIN, MAX, MED and SM, and their values.

    [MAX 2 9 [MIN 4 7 ] 0 ]  is  9

Source: the generator of the Long Range Arena (arXiv 2011.04006): an argument is an expression with
probability ¼ down to a depth of 10, else a digit; 2 to 10 arguments; MED is the median rounded
down, SM the sum modulo 10; an expression is kept if its length, two for an operator and one for a
digit, lies between limits, and if it is new. Parentheses are left out.
Differs: expressions are drawn by a seed, and given up as soon as they are too long, which changes
no distribution; test and training parts are cut from distinct expressions in the order drawn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from encoder_jobs.ragged import Ragged

MIN, MAX, MED, SUM = range(11, 15)
"""Token ids of the operators, each with its bracket; 0 is padding, a digit d is 1 + d."""
CLOSE = 15
NUM_TOKENS = 16
NUM_DIGITS = 10
_EXPANDED = 0.25


@dataclass(frozen=True, slots=True)
class ListOpsOptions:
    """Which expressions, and how many.

    Args:
        longer_than: tokens, not with this number itself.
        shorter_than: tokens, not with this number itself; the paper's are 500 and 2,000.
        num_train: expressions.
        num_test: expressions, none of them in training.
        batch_size: B, in training.
        max_depth: the root is at depth 1; what is at the last one is a digit.
        max_args: of an operator.
        seed: of the expressions, the same ones for every seed of a run.
    """

    longer_than: int = 500
    shorter_than: int = 2000
    num_train: int = 96_000
    num_test: int = 10_000
    batch_size: int = 32
    max_depth: int = 10
    max_args: int = 10
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Expressions:
    """Expressions as token ids, and their values.

    Attributes:
        texts: N of them.
        values: (N,) int64, 0 to 9.
    """

    texts: Ragged
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, numbers: np.ndarray) -> Expressions:
        """Return some of them."""
        return Expressions(self.texts.take(numbers), self.values[numbers])


class _TooLongError(Exception):
    """An expression has outgrown the limit; another one is drawn."""


def draw(options: ListOpsOptions, rng: random.Random) -> tuple[list[int], int]:
    """Draw one expression within the limits: its token ids, and its value."""
    while True:
        tokens: list[int] = []
        try:
            value = _grow(tokens, 1, options, rng)
        except _TooLongError:
            continue
        if len(tokens) > options.longer_than:
            return tokens, value


def draw_distinct(options: ListOpsOptions, count: int) -> Expressions:
    """Draw expressions of which no two are the same."""
    rng = random.Random(options.seed)
    found: dict[bytes, int] = {}
    while len(found) < count:
        tokens, value = draw(options, rng)
        found[bytes(tokens)] = value
    texts = Ragged.of([np.frombuffer(each, np.uint8) for each in found])
    return Expressions(texts, np.array(list(found.values()), np.int64))


def _grow(tokens: list[int], depth: int, options: ListOpsOptions, rng: random.Random) -> int:
    """Add an expression to tokens; return its value."""
    if len(tokens) + 1 >= options.shorter_than:
        raise _TooLongError
    if depth == options.max_depth or rng.random() > _EXPANDED:
        digit = rng.randrange(NUM_DIGITS)
        tokens.append(1 + digit)
        return digit
    operator = rng.randint(MIN, SUM)
    tokens.append(operator)
    num_args = rng.randint(2, options.max_args)
    args = [_grow(tokens, depth + 1, options, rng) for _ in range(num_args)]
    tokens.append(CLOSE)
    if len(tokens) >= options.shorter_than:
        raise _TooLongError
    return apply(operator, args)


def apply(operator: int, args: list[int]) -> int:
    """Return what an operator makes of digits."""
    if operator == SUM:
        return sum(args) % 10
    if operator == MED:
        ordered, half = sorted(args), len(args) // 2
        return (ordered[half] + ordered[-1 - half]) // 2
    return min(args) if operator == MIN else max(args)
