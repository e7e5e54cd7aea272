"""The words of the generated task, and how facts and questions become tokens.

A name or a value is a string of pieces, each one token; the pieces are shared by all splits, the
names that they make are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

PAD, END = 0, 1
_SPECIALS = ["<pad>", "</s>"]
_ATTRIBUTES = [
    "colour", "weight", "age", "height", "rank", "badge", "ticket", "phone",
    "room", "account", "licence", "locker", "desk", "grade", "target", "batch",
]  # fmt: skip
_RELATIONS = ["friend", "teacher", "neighbour", "doctor"]
_ENDINGS = ["a", "e", "i", "o", "u", "ar", "en", "il", "on", "us"]
_STATEMENTS = ["KIND of NAME is OBJECT .", "NAME has KIND OBJECT ."]
_RECITALS = ["NAME KIND OBJECT"]
_ANSWERS = ["NAME KIND OBJECT </s>", "NAME RELATION BRIDGE KIND OBJECT </s>"]
_QUESTIONS = ["what KIND of NAME ?", "what KIND of RELATION of NAME ?"]


def _pieces(count: int, firsts: str, lasts: Sequence[str]) -> list[str]:
    found = [first + last for first in firsts for last in lasts]
    if count > len(found):
        raise ValueError(f"pieces: got {count}, wanted at most {len(found)}")
    return found[:count]


@dataclass(frozen=True)
class Language:
    """The vocabulary of a task.

    Args:
        num_name_pieces: of which every name has two.
        num_value_pieces: of which every value has `value_length`.
        value_length: pieces of a value.
    """

    num_name_pieces: int = 128
    num_value_pieces: int = 128
    value_length: int = 3

    num_attributes = len(_ATTRIBUTES)
    num_relations = len(_RELATIONS)
    name_length = 2

    @cached_property
    def words(self) -> list[str]:
        """Return the word of every id."""
        templates = " ".join(_STATEMENTS + _QUESTIONS).split()
        function_words = sorted({word for word in templates if not word.isupper()})
        names = _pieces(self.num_name_pieces, "bdfgklmnprstvz", _ENDINGS)
        values = _pieces(self.num_value_pieces, "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789")
        return [*_SPECIALS, *function_words, *_ATTRIBUTES, *_RELATIONS, *names, *values]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    @property
    def first_kind(self) -> int:
        """Return the id of the first attribute; the other attributes, then relations follow."""
        return self._ids[_ATTRIBUTES[0]]

    @property
    def first_name_piece(self) -> int:
        """Return the id of the first piece of names; the others follow, then those of values."""
        return self.first_kind + self.num_attributes + self.num_relations

    @property
    def first_value_piece(self) -> int:
        """Return the id of the first piece of values."""
        return self.first_name_piece + self.num_name_pieces

    @property
    def object_length(self) -> int:
        """Return the most tokens that a fact says of its entity: a value, or another's name."""
        return max(self.value_length, self.name_length)

    @cached_property
    def statements(self) -> np.ndarray:
        """Return templates (S, T) for `render`."""
        return self._compile(_STATEMENTS)

    @cached_property
    def questions(self) -> np.ndarray:
        """Return templates (2, T) for `render`: of one hop and of two."""
        return self._compile(_QUESTIONS)

    @cached_property
    def answers(self) -> np.ndarray:
        """Return templates (2, T) for `render`: to questions of one hop and of two."""
        return self._compile(_ANSWERS)

    @cached_property
    def recitals(self) -> np.ndarray:
        """Return templates (1, T) for `render`: the facts as an answer tells them."""
        return self._compile(_RECITALS)

    def _compile(self, templates: list[str]) -> np.ndarray:
        """Return (S, T) int64: ids of words, PAD at the end, and -1 - n for the nth symbol."""
        slots = {
            "KIND": [-1],
            "RELATION": [-2],
            "NAME": [-3, -4],
            "BRIDGE": [-5, -6],
            "OBJECT": [-7 - n for n in range(self.object_length)],
        }
        rows = [
            [i for word in t.split() for i in slots.get(word) or [self._ids[word]]]
            for t in templates
        ]
        width = max(map(len, rows))
        return np.array([row + [PAD] * (width - len(row)) for row in rows])

    def text(self, ids: np.ndarray) -> str:
        """Return ids (T,) as words, padding left out."""
        return " ".join(self.words[i] for i in ids if i != PAD)


def render(templates: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    """Fill templates in.

    Args:
        templates: (..., T) or (T,), of `Language`.
        symbols: (..., 6 + object_length): kind, relation, two pieces of the name, two of the name
            between, the object; PAD where there is none.

    Returns:
        (..., T) ids with PAD wherever a symbol is.
    """
    templates = np.broadcast_to(templates, (*symbols.shape[:-1], templates.shape[-1]))
    filled = np.take_along_axis(symbols, np.maximum(-1 - templates, 0), axis=-1)
    return np.where(templates < 0, filled, templates)


def close_up(ids: np.ndarray) -> np.ndarray:
    """Move the PADs of every row (N, T) to its end; return (N, longest) uint16."""
    is_pad = ids == PAD
    order = np.argsort(is_pad, axis=1, kind="stable")[:, : int((~is_pad).sum(axis=1).max())]
    return np.take_along_axis(ids, order, axis=1).astype(np.uint16)
