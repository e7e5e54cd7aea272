"""Streams that ask for what they said some windows ago, so that the answer is in memory or nowhere.

A window is a row of places of two tokens. A pair, key and value, says what the key's value is; a
question, a key and a filler, asks for the value of a key that was said a known number of windows
before; the other places hold fillers. A key is said once in a stream, and the stream never tells an
answer: a question asked again is as hard as before.

Source: multi-query associative recall (arXiv 2312.04927), laid out over windows.
Differs: fillers and questions are drawn anew in each window, and distance is counted in windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encoder_jobs.training_steps import NO_TARGET

_PLACE = 2


@dataclass(frozen=True, slots=True)
class RecallTask:
    """What streams are made of. Ids: keys first, then values, then fillers.

    Attributes:
        window: W, a multiple of 2.
        num_keys: at least those that a stream says.
        num_values: chance is one in so many.
        num_fillers: tokens that mean nothing.
        pairs: said in each window.
        questions: asked in each window, fewer where nothing lies far enough back.
    """

    window: int
    num_keys: int = 256
    num_values: int = 32
    num_fillers: int = 8
    pairs: int = 2
    questions: int = 6

    @property
    def vocab_size(self) -> int:
        """V, ids of all kinds."""
        return self.num_keys + self.num_values + self.num_fillers


@dataclass(frozen=True, slots=True, eq=False)
class RecallStreams:
    """B streams of n windows.

    Attributes:
        tokens: (B, n·W) int64.
        targets: (B, n·W) int64, the answer at the key of a question; -100 elsewhere.
        distances: (B, n·W) int64, how many windows before the answer was said; 0 where there is no
            question.
    """

    tokens: np.ndarray
    targets: np.ndarray
    distances: np.ndarray


def make_streams(
    task: RecallTask,
    rng: np.random.Generator,
    *,
    num_streams: int,
    num_windows: int,
    distances: np.ndarray,
    pair_places: int,
) -> RecallStreams:
    """Draw streams.

    Args:
        task: what they are made of.
        rng: draws them.
        num_streams: B.
        num_windows: n.
        distances: windows, 1 or more; a question's is drawn from those that the stream is long
            enough for.
        pair_places: a pair is in one of so many of the first places of its window.

    Raises:
        ValueError: if there are too few keys, or places in a window.
    """
    places = task.window // _PLACE
    if (
        num_windows * task.pairs > task.num_keys
        or task.pairs + task.questions > places
        or not task.pairs <= pair_places <= places
    ):
        raise ValueError(
            f"{num_windows} windows of {places} places with {task.pairs} pairs, in the first "
            f"{pair_places}, and {task.questions} questions: wanted at most {places} of both in "
            f"a window, and at most {task.num_keys} keys"
        )
    shape = num_streams, num_windows, places
    # (B, n, pairs), each key once in a stream
    keys = rng.permuted(np.tile(np.arange(task.num_keys), (num_streams, 1)), axis=1)
    keys = keys[:, : num_windows * task.pairs].reshape(num_streams, num_windows, task.pairs)
    values = task.num_keys + rng.integers(task.num_values, size=keys.shape)
    # Pairs take some of the first places, questions some of all that are left.
    drawn = rng.random(shape)
    said = drawn[..., :pair_places].argsort(axis=2)[..., : task.pairs]
    np.put_along_axis(drawn, said, np.inf, axis=2)
    asked = drawn.argsort(axis=2)[..., : task.questions]
    tokens = rng.integers(task.vocab_size - task.num_fillers, task.vocab_size, (*shape, _PLACE))
    targets, back = np.full(tokens.shape, NO_TARGET), np.zeros(tokens.shape, np.int64)
    rows, windows = np.ogrid[:num_streams, :num_windows]
    at = rows[..., None], windows[..., None]
    tokens[*at, said, 0], tokens[*at, said, 1] = keys, values
    for window in range(1, num_windows):
        near = distances[distances <= window]
        if not len(near):
            continue
        away = rng.choice(near, size=(num_streams, task.questions))
        pair = rng.integers(task.pairs, size=away.shape)
        place = rows, window, asked[:, window], 0
        tokens[place] = keys[rows, window - away, pair]
        targets[place] = values[rows, window - away, pair]
        back[place] = away
    return _streams(tokens, targets, back)


def make_passkeys(
    task: RecallTask,
    rng: np.random.Generator,
    *,
    num_streams: int,
    distances: Sequence[int],
    pair_places: int,
) -> RecallStreams:
    """Draw streams that say one pair, in their first window, and ask for it so many windows later.

    All else is fillers: what must be remembered is little, and nothing else is said.

    Args:
        task: what they are made of.
        rng: draws them.
        num_streams: B.
        distances: windows, 1 or more; each is asked about once in a stream.
        pair_places: the pair is in one of so many of the first places of its window.
    """
    shape = num_streams, max(distances) + 1, task.window // _PLACE, _PLACE
    tokens = rng.integers(task.vocab_size - task.num_fillers, task.vocab_size, shape)
    targets, back = np.full(shape, NO_TARGET), np.zeros(shape, np.int64)
    rows = np.arange(num_streams)
    keys = rng.integers(task.num_keys, size=num_streams)
    values = task.num_keys + rng.integers(task.num_values, size=num_streams)
    said = rng.integers(pair_places, size=num_streams)
    tokens[rows, 0, said] = np.stack([keys, values], axis=1)
    for distance in distances:
        place = rows, distance, rng.integers(shape[2], size=num_streams), 0
        tokens[place], targets[place], back[place] = keys, values, distance
    return _streams(tokens, targets, back)


def _streams(tokens: np.ndarray, targets: np.ndarray, distances: np.ndarray) -> RecallStreams:
    flat = len(tokens), -1
    return RecallStreams(tokens.reshape(flat), targets.reshape(flat), distances.reshape(flat))
