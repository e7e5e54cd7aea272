"""`python -m experiments.longvq.shortcuts`: how far do ListOps' answers go without working it out?

Four rules know more and more of an expression, none of them below the root's own arguments. A model
that does no better than they do has not shown that it works expressions out. On the paper's lengths
rules of this kind are known to get 17.0, 36.4, 49.3 and 52.3 % right; the last one depends on how
the same knowledge is laid out as a table, and reaches 54 % here.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping

import numpy as np

from experiments.longvq.expressions import (
    CLOSE,
    MIN,
    Expressions,
    ListOpsOptions,
    apply,
    draw_distinct,
)
from experiments.results import table

Feature = Callable[[np.ndarray], Hashable]


def _nothing(tokens: np.ndarray) -> Hashable:
    return ()


def _root(tokens: np.ndarray) -> Hashable:
    return int(tokens[0])


def _digits(tokens: np.ndarray) -> Hashable:
    """Return the root, its operator over the digits that are its arguments, and how many others."""
    children = _children(tokens)
    digits = (children[children < MIN] - 1).tolist()
    worth = apply(int(tokens[0]), digits) if digits else None
    return int(tokens[0]), worth, int((children >= MIN).sum())


def _operators(tokens: np.ndarray) -> Hashable:
    children = _children(tokens)
    return _digits(tokens), tuple(sorted(children[children >= MIN].tolist()))


SHORTCUTS: Mapping[str, Feature] = {
    "most frequent answer": _nothing,
    "root operator": _root,
    "root and its digits": _digits,
    "root, its digits, operators below": _operators,
}


def shortcut_shares(trained: Expressions, tested: Expressions) -> dict[str, float]:
    """Return the share of answers that each shortcut gets right.

    Args:
        trained: what the rules are fitted to: a feature's most frequent answer.
        tested: other expressions. A feature that was never seen is answered by the rule before.
    """
    shares: dict[str, float] = {}
    answers = np.zeros(len(tested), np.int64)
    for name, feature in SHORTCUTS.items():
        known = _fit(trained, feature)
        features = [feature(tested.texts[number]) for number in range(len(tested))]
        answers = np.array(
            [known.get(each, before) for each, before in zip(features, answers, strict=True)]
        )
        shares[name] = float((answers == tested.values).mean())
    return shares


def _fit(found: Expressions, feature: Feature) -> dict[Hashable, int]:
    seen: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for number, value in enumerate(found.values.tolist()):
        seen[feature(found.texts[number])][value] += 1
    return {each: counts.most_common(1)[0][0] for each, counts in seen.items()}


def _children(tokens: np.ndarray) -> np.ndarray:
    """Return the root's arguments: a digit, or the operator of an expression."""
    is_operator = (tokens >= MIN) & (tokens < CLOSE)
    depth = np.cumsum(is_operator) - np.cumsum(tokens == CLOSE)
    before = depth - is_operator + (tokens == CLOSE)
    children: np.ndarray = tokens[(before == 1) & (tokens != CLOSE)]
    return children


def main() -> int:
    """Draw expressions as the paper does, and print what the shortcuts get right."""
    parser = argparse.ArgumentParser(prog="python -m experiments.longvq.shortcuts")
    parser.add_argument("--samples", type=int, default=20_000, help="to fit to, and to test on")
    parser.add_argument("--longer-than", type=int, default=500, help="tokens")
    parser.add_argument("--shorter-than", type=int, default=2000, help="tokens")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    options = ListOpsOptions(given.longer_than, given.shorter_than, seed=given.seed)
    found = draw_distinct(options, 2 * given.samples)
    numbers = np.arange(len(found))
    trained, tested = (found.take(each) for each in np.split(numbers, 2))
    shares = shortcut_shares(trained, tested)
    print(table(["shortcut", "right"], [[k, f"{share:.1%}"] for k, share in shares.items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
