"""The generated task: what its passages say, and that nothing but them gives the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experiments.lumen_vq.language import END, PAD, Language
from experiments.lumen_vq.task import ask, recite
from experiments.lumen_vq.world import TaskOptions, World

OPTIONS = TaskOptions(language=Language(num_name_pieces=30, num_value_pieces=40))
LANGUAGE = OPTIONS.language
K = 8


@pytest.fixture(scope="module")
def world() -> World:
    """Return a world of 120 entities."""
    return World(OPTIONS, "test", seed=0, num_entities=120)


def words_of(world: World, ids: np.ndarray) -> str:
    """Return ids as words."""
    return world.options.language.text(ids)


def stated(passage: str) -> set[tuple[str, str, str]]:
    """Return (kind, name, object) of every sentence of a passage."""
    facts = set()
    for sentence in passage.removesuffix(" .").split(" . "):
        words = sentence.split()
        match words:
            case [kind, "of", a, b, "is", *rest]:
                pass
            case [a, b, "has", kind, *rest]:
                pass
            case _:
                raise AssertionError(f"no statement: {sentence}")
        facts.add((kind, f"{a} {b}", " ".join(rest)))
    return facts


def asked_in(question: str) -> tuple[str, str, str]:
    """Return kind, name and relation of a question; the relation is empty where it has one hop."""
    match question.split():
        case ["what", kind, "of", a, b, "?"]:
            return kind, f"{a} {b}", ""
        case ["what", kind, "of", relation, "of", a, b, "?"]:
            return kind, f"{a} {b}", relation
    raise AssertionError(f"no question: {question}")


def test_answers_stand_in_the_gold_passages(world: World):
    """Following the question through its gold passages gives the answer."""
    questions = ask(world, 500, num_passages=K, seed=0)
    assert set(questions.num_hops) == {1, 2}
    for row in range(len(questions)):
        first, second = (stated(words_of(world, world.passage_ids[p])) for p in questions.gold[row])
        answer = words_of(world, questions.answer_ids[row]).split()
        kind, name, relation = asked_in(words_of(world, questions.question_ids[row]))
        assert answer[:2] == name.split()
        if relation:
            name = " ".join(answer[3:5])
            assert (relation, " ".join(answer[:2]), name) in first
            assert answer[2] == relation
            answer = answer[3:]
        assert answer[2] == kind
        assert (kind, name, " ".join(answer[3:-1])) in second
        assert answer[-1] == "</s>"


def test_every_question_brings_distinct_passages_with_the_gold_among_them(world: World):
    """K rows, none twice, one or two of them gold, not always in the same place."""
    questions = ask(world, 500, num_passages=K, seed=0)
    assert questions.passages.shape == (500, K)
    assert all(len(set(row)) == K for row in questions.passages)
    is_gold = questions.passages == questions.gold[:, 1:]
    assert (is_gold.sum(axis=1) == 1).all()
    assert (questions.passages == questions.gold[:, :1]).any(axis=1).all()
    assert is_gold.any(axis=0).all()


def test_distractors_tell_the_same_of_others(world: World):
    """Most questions come with a passage that says what is asked, of another name."""
    questions = ask(world, 300, num_passages=K, seed=1)
    told = 0
    for row in range(300):
        asked, name, _ = asked_in(words_of(world, questions.question_ids[row]))
        others = set(questions.passages[row]) - set(questions.gold[row])
        facts = set().union(*(stated(words_of(world, world.passage_ids[p])) for p in others))
        told += any(kind == asked and of != name for kind, of, _ in facts)
    assert told > 270


def test_no_name_of_the_test_is_in_training_but_every_piece_is():
    """Names are new, pieces are known, whatever the seeds."""
    train, test = (World(OPTIONS, split, seed=5).names for split in ("train", "test"))
    assert not set(map(tuple, train)) & set(map(tuple, test))
    assert set(test.ravel()) <= set(train.ravel())
    assert len(train) + len(test) == 30 * 29


def test_worlds_draw_their_own_values():
    """The same entity has another value in another world: nothing is known beforehand."""
    first, second = (
        ask(World(OPTIONS, "test", seed=seed), 400, num_passages=K, seed=0) for seed in (0, 1)
    )
    asked = {tuple(q): tuple(a) for q, a in zip(first.question_ids, first.answer_ids, strict=True)}
    again = [
        asked[key] == tuple(answer)
        for key, answer in zip(map(tuple, second.question_ids), second.answer_ids, strict=True)
        if key in asked
    ]
    assert len(again) > 20
    assert not any(again)


def test_the_same_seed_gives_the_same_task(world: World):
    """Worlds and questions depend on options and seeds alone; no question is asked twice."""
    again = World(OPTIONS, "test", seed=0, num_entities=120)
    assert np.array_equal(again.passage_ids, world.passage_ids)
    questions, same = (
        ask(world, 500, num_passages=K, seed=3),
        ask(again, 500, num_passages=K, seed=3),
    )
    assert np.array_equal(questions.passages, same.passages)
    assert np.array_equal(questions.answer_ids, same.answer_ids)
    assert len(np.unique(questions.question_ids, axis=0)) == 500


def test_padding_stands_at_the_end_only(world: World):
    """Rows are ids, then PAD."""
    questions = ask(world, 200, num_passages=K, seed=4)
    for ids in (world.passage_ids, questions.question_ids, questions.answer_ids):
        is_token = ids != PAD
        assert (is_token[:, 1:] <= is_token[:, :-1]).all()
        assert ids.max() < len(LANGUAGE.words)
    assert ((questions.answer_ids == END).sum(axis=1) == 1).all()


def test_recitals_tell_what_stands_in_their_passages(world: World):
    """Every fact of a recital is in one of its passages, and only objects are to be known."""
    recitals = recite(world, 50, num_passages=3, num_facts=10, seed=0)
    assert recitals.passages.shape == (50, 3)
    for passages, ids, is_object in zip(
        recitals.passages, recitals.fact_ids, recitals.is_object, strict=True
    ):
        facts = set().union(*(stated(words_of(world, world.passage_ids[p])) for p in passages))
        for fact, known in zip(ids.reshape(10, -1), is_object.reshape(10, -1), strict=True):
            a, b, kind, *rest = words_of(world, fact).split()
            assert (kind, f"{a} {b}", " ".join(rest)) in facts
            assert known.tolist() == [False] * 3 + [True] * len(rest) + [False] * (3 - len(rest))


def test_passages_have_the_size_promised():
    """With the default options a passage has about 68 tokens."""
    lengths = (World(TaskOptions(), "test", seed=0, num_entities=300).passage_ids != PAD).sum(1)
    assert 60 <= lengths.min() <= lengths.max() <= 80


def test_values_alike_differ_by_one_piece():
    """The knob makes values of entities that share a first piece almost equal."""
    options = replace(OPTIONS, share_alike=1.0, attributes_each=16, own_facts=6)
    world = World(options, "test", seed=0)
    same = np.flatnonzero(world.names[:, 0] == world.names[0, 0])[:2]
    first, second = (world.objects[e][np.argsort(world.kinds[e])][:16] for e in same)
    assert ((first == second).sum(axis=1) >= 1).all()


def test_more_questions_than_a_world_has_are_refused():
    """Asking for too many says how many there are."""
    with pytest.raises(ValueError, match="at most"):
        ask(World(OPTIONS, "test", seed=0, num_entities=20), 10_000, num_passages=K, seed=0)


def test_facts_that_do_not_fill_passages_are_refused():
    """Every passage about an entity has the same number of its facts."""
    with pytest.raises(ValueError, match="own_facts: got 4"):
        TaskOptions(own_facts=4)
