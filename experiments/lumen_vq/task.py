"""Questions whose answers must be read in retrieved passages: one hop or two, generated.

A question comes with K passages, one or two of them gold; the others tell the same attribute of
entities of like names, other things of the same entity, or nothing to the point.

An answer states the facts that it rests on: "ka ro room A1 B2 C3", and after two hops "ka ro friend
mi fe room A1 B2 C3". That is longer than the bare value, but a small model learns it in minutes:
every fact of a passage can be recited so without a question (`recite`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.lumen_vq.language import PAD, close_up, render
from experiments.lumen_vq.world import World, choose


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions with their passages. PAD (0) fills rows up; every answer ends with END (1).

    Args:
        question_ids: (Q, L) uint16.
        passages: (Q, K) int32, rows of the world's passages, in random order.
        answer_ids: (Q, A) uint16: for two hops, the fact that leads on, then the fact asked for.
        gold: (Q, 2) int32, rows of the passages that answer; twice the same where one does.
        num_hops: (Q,) int64, 1 or 2.
    """

    question_ids: np.ndarray
    passages: np.ndarray
    answer_ids: np.ndarray
    gold: np.ndarray
    num_hops: np.ndarray

    def __len__(self) -> int:
        return len(self.question_ids)

    def __getitem__(self, rows: slice | np.ndarray) -> Questions:
        """Return some of the questions."""
        return Questions(
            self.question_ids[rows],
            self.passages[rows],
            self.answer_ids[rows],
            self.gold[rows],
            self.num_hops[rows],
        )


@dataclass(frozen=True, slots=True)
class Recitals:
    """Sets of passages with facts to be told from them: many answers for one reading.

    Args:
        passages: (B, K) int32, rows of the world's passages, of entities of like names.
        fact_ids: (B, F * T) uint16: F facts, each as an answer tells it; PAD after short objects.
        is_object: (B, F * T) bool, what can be known by reading alone.
    """

    passages: np.ndarray
    fact_ids: np.ndarray
    is_object: np.ndarray


def ask(world: World, count: int, *, num_passages: int, seed: int) -> Questions:
    """Return questions about a world, none of them twice.

    Args:
        world: asked about.
        count: Q, of questions.
        num_passages: K, that come with a question; 2 or more.
        seed: of the choice.

    Raises:
        ValueError: if the world has not so many questions or passages.
    """
    rng = np.random.default_rng([seed, 1])
    asked = _draw(world, 2 * count, rng)
    bounds = (len(world.names), world.num_facts + 1, len(world.names), world.num_facts)
    keys = np.ravel_multi_index((asked + np.array([0, 1, 0, 0])).T, bounds)
    _, first = np.unique(keys, return_index=True)
    if len(first) < count:
        raise ValueError(f"questions: got {count}, wanted at most {len(first)} of this world")
    entity, relation, subject, fact = asked[np.sort(first)[:count]].T
    is_two = relation >= 0
    language = world.options.language
    symbols = world.symbols(subject, fact)
    symbols[:, 1] = np.where(is_two, world.kinds[entity, relation], PAD)
    symbols[:, 2:4] = world.names[entity]
    symbols[:, 4:6] = world.names[subject]
    gold = np.stack([world.passage_of[entity, relation], world.passage_of[subject, fact]], axis=1)
    gold[~is_two, 0] = gold[~is_two, 1]
    return Questions(
        question_ids=close_up(render(language.questions[is_two.astype(int)], symbols)),
        passages=_retrieve(
            world, gold, np.stack([subject, entity], 1), symbols[:, :2], num_passages, rng
        ),
        answer_ids=close_up(render(language.answers[is_two.astype(int)], symbols)),
        gold=gold.astype(np.int32),
        num_hops=1 + is_two,
    )


def recite(world: World, count: int, *, num_passages: int, num_facts: int, seed: int) -> Recitals:
    """Return sets of passages, each with some of what they tell of their entities.

    Args:
        world: told of.
        count: B, of sets.
        num_passages: K, of a set; the first is of any entity, the others of some like it.
        num_facts: F, of a set; fewer where the passages do not tell so many.
        seed: of the choice.
    """
    rng = np.random.default_rng([seed, 2])
    first = rng.integers(len(world.names), size=(count, 1))
    alike = world.alike(first.repeat(num_passages - 1, 1), rng)
    entities = np.concatenate([first, alike], axis=1)
    passages = world.passage_of[entities, rng.integers(world.num_facts, size=entities.shape)]
    told = world.told[passages].reshape(count, -1, 2)
    chosen = choose(rng, count, told.shape[1], min(num_facts, told.shape[1]))
    told = np.take_along_axis(told, chosen[..., None], axis=1)
    language = world.options.language
    facts = render(language.recitals[0], world.symbols(told[..., 0], told[..., 1]))
    is_object = facts != PAD
    is_object[..., : 1 + language.name_length] = False
    return Recitals(
        passages.astype(np.int32),
        facts.reshape(count, -1).astype(np.uint16),
        is_object.reshape(count, -1),
    )


def _draw(world: World, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return (count, 4) int64: entity, relation fact or -1, entity asked about, its fact."""
    options = world.options
    is_two = rng.random(count) < options.share_two_hops
    entity = rng.integers(len(world.names), size=count)
    number = rng.integers(options.relations_each, size=count)
    subject = np.where(is_two, world.related[entity, number], entity)
    relation = np.where(is_two, options.attributes_each + number, -1)
    fact = rng.integers(options.attributes_each, size=count)
    return np.stack([entity, relation, subject, fact], axis=1)


def _retrieve(
    world: World,
    gold: np.ndarray,
    entities: np.ndarray,
    kinds: np.ndarray,
    wanted: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return (Q, K) int32 rows of passages: the gold ones and the likeliest to mislead.

    Args:
        world: asked about.
        gold: (Q, 2).
        entities: (Q, 2), who is asked about in the end, and who is named in the question.
        kinds: (Q, 2), ids of the attribute of the one and of the relation of the other, or PAD.
        wanted: K.
        rng: of the choice.
    """
    if len(world.passage_ids) < 2 * wanted:
        raise ValueError(f"passages: got {len(world.passage_ids)}, wanted {2 * wanted} or more")
    same = world.passage_of[entities, rng.integers(world.num_facts, size=entities.shape)]
    kinds = np.where(kinds == PAD, kinds[:, :1], kinds) - world.options.language.first_kind
    others = world.alike(np.tile(entities, wanted), rng)
    told = world.fact_of_kind[others, np.tile(kinds, wanted)]
    told = np.where(told < 0, rng.integers(world.num_facts, size=told.shape), told)
    next_ones = (gold[:, :1] + np.arange(1, wanted + 1)) % len(world.passage_ids)
    found = np.concatenate([gold, same, world.passage_of[others, told], next_ones], axis=1)
    return rng.permuted(_first_distinct(found, wanted), axis=1).astype(np.int32)


def _first_distinct(rows: np.ndarray, count: int) -> np.ndarray:
    """Return the first `count` distinct values of each row; each has so many."""
    order = np.argsort(rows, axis=1, kind="stable")
    in_order = np.take_along_axis(rows, order, axis=1)
    is_again = np.zeros(rows.shape, bool)
    np.put_along_axis(is_again, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
    first = np.argsort(is_again, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(rows, first, axis=1)
