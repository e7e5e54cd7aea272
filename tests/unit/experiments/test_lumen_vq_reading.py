"""How the reader of the experiment starts, learns and is judged, at the smallest size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.lumen_vq.language import PAD, Language
from experiments.lumen_vq.reading import (
    encode_passages,
    is_answered,
    learn_to_answer,
    learn_to_recite,
    new_reader,
)
from experiments.lumen_vq.sizes import Shape, Stage
from experiments.lumen_vq.statistics import exact_match
from experiments.lumen_vq.task import ask
from experiments.lumen_vq.world import TaskOptions, World
from memstore.models.lumen import Lumen

OPTIONS = TaskOptions(
    Language(num_name_pieces=20, num_value_pieces=2, value_length=1),
    attributes_each=1,
    relations_each=1,
    own_facts=2,
    other_facts=0,
    share_two_hops=0.0,
)
SHAPE = Shape(dim=32, ffn_dim=32, num_heads=4, head_dim=8, num_layers=3, num_decoder_layers=1)
STAGE = Stage(num_steps=60, tokens=600, learning_rate=1e-2, num_passages=(2,), position_rate=5)


@pytest.fixture(scope="module")
def world() -> World:
    """Return a world whose questions have one of two answers."""
    return World(OPTIONS, "train", seed=0)


def new() -> Lumen:
    """Return an untrained reader."""
    return new_reader(SHAPE, OPTIONS.language, seed=0)


@pytest.mark.parametrize("learn", [learn_to_recite, learn_to_answer])
def test_every_stage_lowers_its_loss(
    world: World, learn: Callable[[Lumen, World, Stage, int], Iterator[float]]
):
    """Sixty steps take at least a third off."""
    losses = list(learn(new(), world, STAGE, 0))
    assert len(losses) == 60
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) * 2 / 3


def test_learning_repeats_under_the_same_seed(world: World):
    """Weights and questions depend on the seed alone."""
    first, second = (list(learn_to_recite(new(), world, STAGE, seed=1)) for _ in range(2))
    assert first == second


def test_an_answer_counts_exactly_if_greedy_decoding_gives_it(world: World):
    """One pass over the answers judges as generating them does."""
    model = new()
    list(learn_to_answer(model, world, replace(STAGE, num_steps=120), seed=0))
    model.eval()
    questions = ask(world, 60, num_passages=2, seed=9)
    asked, passages = (
        torch.from_numpy(ids.astype(np.int64))
        for ids in (questions.question_ids, world.passage_ids[questions.passages])
    )
    stored = encode_passages(model, world, batch=100)
    memories = stored[torch.from_numpy(questions.passages)]
    generated = model.generate(asked, asked != PAD, memories, passages != PAD, max_new_tokens=8)
    expected = exact_match(generated.numpy(), questions.answer_ids)
    assert np.array_equal(is_answered(model, world, questions, stored, batch=7), expected)
    assert expected.any()
    assert not expected.all()
