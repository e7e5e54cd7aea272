"""Generated streams: every answer lies where it is said to lie, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from encoder_jobs.training_steps import NO_TARGET
from experiments.melodi.recall import RecallTask, make_passkeys, make_streams
from experiments.melodi.recalling import Course, RecallTest, Stage, ask, learn_to_recall
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import MelodiConfig

TASK = RecallTask(window=12, num_keys=60, num_values=5, num_fillers=3, pairs=2, questions=3)
DISTANCES = np.array([1, 4, 9])


def streams_of(seed: int = 0, num_windows: int = 20, pair_places: int = 6):
    """Return four streams."""
    return make_streams(
        TASK,
        np.random.default_rng(seed),
        num_streams=4,
        num_windows=num_windows,
        distances=DISTANCES,
        pair_places=pair_places,
    )


def test_an_answer_lies_as_far_back_as_it_says():
    """The key of each question was said once, so many windows before, with the answer after it."""
    streams = streams_of()
    rows, places = np.nonzero(streams.distances)
    assert len(rows) > 4 * 15 * TASK.questions
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        tokens, key = streams.tokens[row], streams.tokens[row, place]
        said = [
            at
            for at in np.flatnonzero(tokens[:-1] == key).tolist()
            if TASK.num_keys <= tokens[at + 1] < TASK.num_keys + TASK.num_values
        ]
        assert len(said) == 1
        assert place // TASK.window - said[0] // TASK.window == streams.distances[row, place]
        assert streams.targets[row, place] == tokens[said[0] + 1]


def test_only_questions_have_targets_and_none_tells_its_answer():
    """After a question comes a filler; fillers and pairs ask nothing."""
    streams = streams_of()
    is_asked = streams.distances > 0
    assert ((streams.targets != NO_TARGET) == is_asked).all()
    after = streams.tokens[np.nonzero(is_asked)[0], np.nonzero(is_asked)[1] + 1]
    assert (after >= TASK.num_keys + TASK.num_values).all()
    assert set(streams.distances[is_asked].tolist()) == {1, 4, 9}
    in_window = is_asked.reshape(4, 20, TASK.window).sum(axis=2)
    assert (in_window[:, 0] == 0).all()
    assert (in_window[:, 1:] == TASK.questions).all()


def test_pairs_stand_in_the_first_places_alone():
    """Both places hold pairs in every window if two are allowed; else any place may."""
    for pair_places in (2, 6):
        tokens = streams_of(pair_places=pair_places).tokens.reshape(4, 20, 6, 2)
        is_value = (tokens >= TASK.num_keys) & (tokens < TASK.num_keys + TASK.num_values)
        by_place = is_value[..., 1].sum(axis=(0, 1))
        assert by_place.sum() == 4 * 20 * TASK.pairs
        assert (by_place > 0).tolist() == [place < pair_places for place in range(6)]
        assert not is_value[..., 0].any()


def test_a_passkey_is_said_once_amid_fillers():
    """In the first window; the answer is asked for as far back as it says."""
    streams = make_passkeys(
        TASK, np.random.default_rng(0), num_streams=30, distances=[1, 4], pair_places=3
    )
    rows, places = np.nonzero(streams.distances)
    assert len(rows) == 2 * 30
    assert (places // TASK.window == streams.distances[rows, places]).all()
    is_value = (streams.tokens >= TASK.num_keys) & (streams.tokens < TASK.num_keys + 5)
    assert (is_value.sum(axis=1) == 1).all()
    at = is_value.argmax(axis=1)
    assert (at < 3 * 2).all()
    every = np.arange(30)
    assert (streams.tokens[rows, places] == streams.tokens[every, at - 1][rows]).all()
    assert (streams.targets[rows, places] == streams.tokens[every, at][rows]).all()
    assert (streams.tokens < TASK.num_keys).sum() == 3 * 30


def test_streams_are_drawn_from_the_seed():
    """The same seed gives the same streams, another one others."""
    assert (streams_of(1).tokens == streams_of(1).tokens).all()
    assert (streams_of(1).tokens != streams_of(2).tokens).any()


def test_a_stream_that_cannot_be_drawn_is_refused():
    """Keys are said once, so a stream is at most as long as there are keys for."""
    with pytest.raises(ValueError, match="at most 60 keys"):
        streams_of(num_windows=31)


def test_a_model_learns_by_the_course_and_is_asked_every_question():
    """The loss falls; each distance has the answers that the test holds."""
    torch.manual_seed(0)
    model = Melodi(
        MelodiConfig(
            vocab_size=TASK.vocab_size,
            dim=16,
            num_layers=2,
            num_heads=2,
            ffn_dim=16,
            window=TASK.window,
            num_short_tokens=3,
            num_summary_tokens=3,
            num_long_tokens=2,
            queue_windows=16,
            dropout=0.0,
        )
    )
    course = Course(
        stages=(Stage(9, (1, 2), 8, 2), Stage(21, (1, 4), 16, 6)),
        num_streams=8,
        segment_windows=4,
        learning_rate=2e-2,
        fast_rate=2.0,
    )
    losses = learn_to_recall(model, TASK, course, seed=0)
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    test = RecallTest(
        distances=(1, 4, 9), num_streams=4, num_windows=20, num_passkeys=5, pair_places=6
    )
    told = ask(model, test.streams(TASK))
    assert sum(sum(asked) for _, asked in told.values()) == 4 * 19 * TASK.questions
    for right, asked in told.values():
        assert len(right) == len(asked) == 4
        assert all(0 <= each <= of for each, of in zip(right, asked, strict=True))
    assert ask(model, test.streams(TASK)) == told
    assert {each: asked for each, (_, asked) in ask(model, test.passkeys(TASK)).items()} == {
        1: [1] * 5,
        4: [1] * 5,
        9: [1] * 5,
    }
