"""A generated world: entities, what is so of them, and the passages that say it.

No name of a test world is in a training world, and every world draws its own values: nothing can
be known but by reading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from experiments.lumen_vq.language import PAD, Language, close_up, render

Split = Literal["train", "test"]
_TEST_SHARE = 0.25  # of all names
_SPLIT_SEED = 7


@dataclass(frozen=True)
class TaskOptions:
    """How hard the questions are.

    Args:
        attributes_each: attributes of an entity, of the language's 16.
        relations_each: relations of an entity, of the language's 4.
        own_facts: facts in a passage about its entity; divides what is known of an entity.
        other_facts: facts in a passage about others of like names.
        share_two_hops: of the questions.
        share_alike: of values that differ by one piece from those of entities of like names.
    """

    language: Language = field(default_factory=Language)
    attributes_each: int = 8
    relations_each: int = 2
    own_facts: int = 5
    other_facts: int = 3
    share_two_hops: float = 0.3
    share_alike: float = 0.5

    def __post_init__(self) -> None:
        num_facts = self.attributes_each + self.relations_each
        if num_facts % self.own_facts:
            raise ValueError(f"own_facts: got {self.own_facts}, wanted a divisor of {num_facts}")


class World:
    """Entities, what is so of them, and the passages that say it.

    Args:
        options: of the task.
        split: whose names the entities have.
        seed: of this world; the split itself is the same under every seed.
        num_entities: all names of the split where left out.

    Attributes:
        names: (E, 2) int64, ids of the pieces of each name.
        kinds: (E, F) int64, ids of the words that say what each fact is about; attributes first.
        objects: (E, F, W) int64, the pieces of the value or of the related entity's name.
        related: (E, relations_each) int64, entities.
        passage_ids: (N, P) uint16, PAD at the end.
        passage_of: (E, F) int64, rows of `passage_ids`.
        told: (N, own_facts, 2) int64, entity and fact, what each passage tells of its entity.
    """

    def __init__(
        self, options: TaskOptions, split: Split, seed: int, num_entities: int | None = None
    ) -> None:
        self.options = options
        rng = np.random.default_rng([seed, split == "test"])
        self.names = rng.permutation(_names(options.language, split))[:num_entities]
        self.kinds = self._draw_kinds(rng)
        self.related = rng.integers(
            len(self.names) - 1, size=(len(self.names), options.relations_each)
        )
        self.related += self.related >= np.arange(len(self.names))[:, None]
        self.objects = self._draw_objects(rng)
        facts = self._assign_passages(rng)
        self.passage_ids = self._write(facts, rng)

    @property
    def num_facts(self) -> int:
        """Return how many facts are known of each entity."""
        return self.options.attributes_each + self.options.relations_each

    @cached_property
    def _by_piece(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, for either piece of a name, entities in its order and where each piece starts."""
        language = self.options.language
        pieces = language.first_name_piece + np.arange(language.num_name_pieces + 1)
        orders = [np.argsort(self.names[:, side], kind="stable") for side in (0, 1)]
        return [
            (order, np.searchsorted(self.names[order, side], pieces))
            for side, order in enumerate(orders)
        ]

    @cached_property
    def fact_of_kind(self) -> np.ndarray:
        """Return (E, attributes + relations) int64: which fact of an entity is of a kind, or -1."""
        language = self.options.language
        found = np.full((len(self.names), language.num_attributes + language.num_relations), -1)
        facts = np.broadcast_to(np.arange(self.num_facts), self.kinds.shape)
        np.put_along_axis(found, self.kinds - language.first_kind, facts, axis=1)
        return found

    def alike(self, entities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return, for each entity, one that shares the first or second piece of its name."""
        side = rng.integers(2, size=entities.shape)
        found = np.empty_like(entities)
        for number, (order, starts) in enumerate(self._by_piece):
            here = side == number
            piece = self.names[entities[here], number] - self.options.language.first_name_piece
            first, last = starts[piece], starts[piece + 1]
            found[here] = order[rng.integers(first, last)]
        return found

    def _draw_kinds(self, rng: np.random.Generator) -> np.ndarray:
        language, options = self.options.language, self.options
        shape = len(self.names)
        attributes = choose(rng, shape, language.num_attributes, options.attributes_each)
        relations = choose(rng, shape, language.num_relations, options.relations_each)
        kinds = np.concatenate([attributes, language.num_attributes + relations], axis=1)
        return language.first_kind + kinds

    def _draw_objects(self, rng: np.random.Generator) -> np.ndarray:
        language, options = self.options.language, self.options
        # What entities with the same first piece have in common; some differ from it by one piece.
        shape = (language.num_name_pieces, language.num_attributes, language.value_length)
        shared = rng.integers(language.num_value_pieces, size=shape)
        groups = self.names[:, :1] - language.first_name_piece
        attributes = self.kinds[:, : options.attributes_each] - language.first_kind
        values = shared[groups, attributes]  # (E, attributes_each, value_length)
        changed = rng.integers(language.value_length, size=attributes.shape)[..., None]
        is_changed = changed == np.arange(language.value_length)
        is_changed |= rng.random(attributes.shape)[..., None] >= options.share_alike
        fresh = rng.integers(language.num_value_pieces, size=values.shape)
        values = language.first_value_piece + np.where(is_changed, fresh, values)
        objects = np.full((len(self.names), self.num_facts, language.object_length), PAD)
        objects[:, : options.attributes_each, : language.value_length] = values
        objects[:, options.attributes_each :, : language.name_length] = self.names[self.related]
        return objects

    def _assign_passages(self, rng: np.random.Generator) -> np.ndarray:
        """Set `passage_of` and `told`; return (N, own + other facts, 2): all that each tells."""
        options, num_entities = self.options, len(self.names)
        order = choose(rng, num_entities, self.num_facts, self.num_facts)
        per_entity = self.num_facts // options.own_facts
        rows = np.arange(num_entities * per_entity)
        own = order.reshape(len(rows), options.own_facts)
        self.passage_of = np.empty((num_entities, self.num_facts), np.int64)
        np.put_along_axis(
            self.passage_of, order, rows.reshape(-1, per_entity).repeat(options.own_facts, 1), 1
        )
        subject = (rows // per_entity)[:, None]
        others = self.alike(subject.repeat(options.other_facts, 1), rng)
        # The same thing of the other where something is known, else anything.
        asked = own[:, rng.permutation(options.own_facts)[: options.other_facts]]
        kinds = self.kinds[subject, asked] - options.language.first_kind
        told = self.fact_of_kind[others, kinds]
        told = np.where(told < 0, rng.integers(self.num_facts, size=told.shape), told)
        facts = np.stack(
            [
                np.concatenate([subject.repeat(options.own_facts, 1), others], axis=1),
                np.concatenate([own, told], axis=1),
            ],
            axis=-1,
        )
        self.told = facts[:, : options.own_facts]
        mixed = choose(rng, len(rows), facts.shape[1], facts.shape[1])
        return np.take_along_axis(facts, mixed[..., None], axis=1)

    def _write(self, facts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return (N, P) uint16 of facts (N, f, 2)."""
        symbols = self.symbols(facts[..., 0], facts[..., 1])
        statements = self.options.language.statements
        chosen = statements[rng.integers(len(statements), size=facts.shape[:2])]
        return close_up(render(chosen, symbols).reshape(len(facts), -1))

    def symbols(self, entities: np.ndarray, facts: np.ndarray) -> np.ndarray:
        """Return what `render` takes, (..., 6 + W), of facts of entities (...)."""
        kind = self.kinds[entities, facts][..., None]
        names, objects = self.names[entities], self.objects[entities, facts]
        none = np.full_like(names, PAD)
        return np.concatenate([kind, none[..., :1], names, none, objects], axis=-1)


def _names(language: Language, split: Split) -> np.ndarray:
    """Return (E, 2) int64: the names of a split, ids of their two pieces, which differ."""
    pieces = np.arange(language.num_name_pieces)
    names = np.stack(np.meshgrid(pieces, pieces), axis=-1).reshape(-1, 2)
    names = np.random.default_rng(_SPLIT_SEED).permutation(names[names[:, 0] != names[:, 1]])
    num_test = int(_TEST_SHARE * len(names))
    chosen = names[:num_test] if split == "test" else names[num_test:]
    return language.first_name_piece + chosen


def choose(rng: np.random.Generator, rows: int, total: int, count: int) -> np.ndarray:
    """Return (rows, count) int64: in each row, distinct numbers below `total` in random order."""
    return np.argsort(rng.random((rows, total)), axis=1)[:, :count]
