"""A model learns to answer from memory, first soon after it was told, then later and later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from encoder_jobs.melodi_scoring import Alter
from encoder_jobs.training_steps import autocast, update
from experiments.melodi.recall import RecallStreams, RecallTask, make_passkeys, make_streams
from memstore.models.melodi import Melodi

_FAST = ("scale", "position_bias")
_TEST_SEED = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the course.

    Attributes:
        num_steps: each is a segment of every stream.
        distances: windows, the shortest and the longest that are asked about; those between are
            spread evenly over their logarithms.
        num_windows: of a stream.
        pair_places: as of `make_streams`.
    """

    num_steps: int
    distances: tuple[int, int]
    num_windows: int
    pair_places: int


@dataclass(frozen=True, slots=True)
class Course:
    """How a model learns to recall, by AdamW.

    Attributes:
        stages: one after the other.
        num_streams: B.
        segment_windows: windows of a step; gradients cross all of them, and nothing before them.
        learning_rate: at its height; after a warm-up over the first 30 steps it falls evenly to a
            twentieth.
        fast_rate: the learning rate of the scales of attention and the position biases, times
            `learning_rate`. They start near 1 and 0 and must grow to tens and units, which the rate
            of matrices does not allow.
    """

    stages: tuple[Stage, ...]
    num_streams: int
    segment_windows: int
    learning_rate: float
    fast_rate: float


@dataclass(frozen=True, slots=True)
class RecallTest:
    """What is asked at the end, the same under every seed.

    Attributes:
        distances: windows.
        num_streams, num_windows: that say pairs in every window.
        num_passkeys: streams that say one.
        pair_places: as of `make_streams`.
    """

    distances: tuple[int, ...]
    num_streams: int
    num_windows: int
    num_passkeys: int
    pair_places: int

    def streams(self, task: RecallTask) -> RecallStreams:
        """Return streams that say pairs in every window."""
        return make_streams(
            task,
            np.random.default_rng([_TEST_SEED, self.num_windows]),
            num_streams=self.num_streams,
            num_windows=self.num_windows,
            distances=np.array(self.distances),
            pair_places=self.pair_places,
        )

    def passkeys(self, task: RecallTask) -> RecallStreams:
        """Return streams that say one pair."""
        return make_passkeys(
            task,
            np.random.default_rng([_TEST_SEED, self.num_passkeys]),
            num_streams=self.num_passkeys,
            distances=self.distances,
            pair_places=self.pair_places,
        )


def learn_to_recall(
    model: Melodi, task: RecallTask, course: Course, *, seed: int, precision: str = "auto"
) -> list[float]:
    """Train a model, which is changed; return the loss of each step."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(_groups(model, course), betas=(0.9, 0.95), weight_decay=0.0)
    num_steps = sum(stage.num_steps for stage in course.stages)
    losses: list[float] = []
    for stage in course.stages:
        distances = _between(*stage.distances)
        end = len(losses) + stage.num_steps
        while len(losses) < end:
            streams = make_streams(
                task,
                rng,
                num_streams=course.num_streams,
                num_windows=stage.num_windows,
                distances=distances,
                pair_places=stage.pair_places,
            )
            state = None
            for tokens, targets in _segments(streams, course.segment_windows * task.window, model):
                with autocast(precision, tokens.device):
                    output = model(tokens, state, targets)
                state = output.state
                assert output.loss is not None
                output.loss.backward()
                _set_rates(optimizer, course, len(losses), num_steps)
                losses.append(float(output.loss.detach()))
                update(optimizer, parameters, losses[-1], clip_norm=1.0)
                if len(losses) == end:
                    break
    return losses


@torch.no_grad()
def ask(
    model: Melodi, streams: RecallStreams, *, alter: Alter | None = None
) -> dict[int, tuple[list[int], list[int]]]:
    """Return, for each distance, how many answers were right in each stream, and of how many.

    Args:
        model: left in eval mode.
        streams: the questions.
        alter: changes the state before every window.
    """
    model.eval()
    window, found = model.config.window, []
    state = model.initial_state(len(streams.tokens))
    for tokens, targets in _segments(streams, window, model):
        output = model(tokens, state if alter is None else alter(state))
        state = output.state
        found.append((output.logits.argmax(-1) == targets).cpu().numpy())
    is_right = np.concatenate(found, axis=1)
    return {
        distance: ((is_right & asked).sum(axis=1).tolist(), asked.sum(axis=1).tolist())
        for distance, asked in _by_distance(streams)
    }


def _by_distance(streams: RecallStreams) -> Iterator[tuple[int, np.ndarray]]:
    for distance in np.unique(streams.distances[streams.distances > 0]).tolist():
        yield distance, streams.distances == distance


def _between(shortest: int, longest: int) -> np.ndarray:
    return np.unique(np.geomspace(shortest, longest, 12).astype(np.int64))


def _segments(
    streams: RecallStreams, length: int, model: Melodi
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    device = model.embedding.weight.device
    parts = []
    for start in range(0, streams.tokens.shape[1], length):
        both = (each[:, start : start + length] for each in (streams.tokens, streams.targets))
        tokens, targets = (torch.from_numpy(each).to(device) for each in both)
        parts.append((tokens, targets))
    return parts


def _groups(model: Melodi, course: Course) -> list[dict[str, Any]]:
    fast = {name for name, _ in model.named_parameters() if name.endswith(_FAST)}
    named = dict(model.named_parameters())
    return [
        {"params": [named[name] for name in named if name not in fast], "times": 1.0},
        {"params": [named[name] for name in named if name in fast], "times": course.fast_rate},
    ]


def _set_rates(optimizer: torch.optim.Optimizer, course: Course, step: int, num_steps: int) -> None:
    rate = course.learning_rate * min(1, (step + 1) / 30) * max(0.05, 1 - step / num_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["times"]
