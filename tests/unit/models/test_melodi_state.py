"""A state that is stored and loaded in the middle of a text is as good as one never interrupted."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memstore.errors import CorruptionError
from memstore.models.melodi_state import STATES, MelodiState, state_shapes
from tests.tiny_melodi import VARIANTS, WINDOW, make_model, make_tokens, tiny_config

ALL = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())


@ALL
def test_a_text_goes_on_from_a_stored_state(changes: dict[str, Any], tmp_path: Path) -> None:
    """To the bit, through a safetensors file."""
    model = make_model(**changes)
    tokens = make_tokens(6)
    first = model(tokens[:, : 3 * WINDOW])

    save_file(first.state.to_tensors(), tmp_path / "state.safetensors")
    loaded = STATES[model.config.architecture].from_tensors(
        load_file(tmp_path / "state.safetensors"), where="state.safetensors"
    )

    kept = model(tokens[:, 3 * WINDOW :], first.state)
    resumed = model(tokens[:, 3 * WINDOW :], loaded)
    assert torch.equal(resumed.logits, kept.logits)
    for name, tensor in resumed.state.to_tensors().items():
        assert torch.equal(tensor, kept.state.to_tensors()[name])


@ALL
def test_shapes_are_known_before_there_is_a_state(changes: dict[str, Any]) -> None:
    """Of a new state and of one that has read."""
    model = make_model(**changes)
    wanted = {**state_shapes(model.config, 2), "position": (2,)}

    for state in (model.initial_state(2), model(make_tokens(2)).state):
        assert {name: tuple(each.shape) for name, each in state.to_tensors().items()} == wanted


def test_a_state_is_a_value() -> None:
    """Reading on, resetting and detaching leave it as it was."""
    model = make_model()
    state = model(make_tokens(2)).state
    before = {name: each.clone() for name, each in state.to_tensors().items()}

    model(make_tokens(2), state)
    model.generate(make_tokens(2), state, max_new_tokens=10)
    state.reset(torch.tensor([True, True]))
    state.detach()
    state.to("cpu")

    assert all(torch.equal(each, before[name]) for name, each in state.to_tensors().items())
    with pytest.raises(FrozenInstanceError):
        state.position = torch.zeros(2)


def test_reset_of_all_rows_is_the_start() -> None:
    """Zeros everywhere, NaN and all."""
    model = make_model()
    state = model(make_tokens(2)).state
    assert isinstance(state, MelodiState)
    state.short[:, 0] = torch.nan

    fresh = state.reset(torch.tensor([True, True]))

    assert all(not each.any() for each in fresh.to_tensors().values())


def test_detach_cuts_the_graph() -> None:
    """A state made by hand may carry one."""
    state = make_model().initial_state(1)
    assert isinstance(state, MelodiState)
    soft = MelodiState(state.position, state.short.requires_grad_(), state.queue)

    assert not soft.detach().short.requires_grad
    assert soft.short.requires_grad


def test_a_soft_memory_can_be_trained() -> None:
    """A state that is passed in gets gradients; the one that comes out has none."""
    model = make_model()
    state = model.initial_state(1)
    assert isinstance(state, MelodiState)
    queue = torch.randn(state.queue.shape, dtype=torch.float64).requires_grad_()

    output = model(make_tokens(1, batch_size=1), MelodiState(state.position, state.short, queue))
    output.logits.square().sum().backward()

    assert queue.grad is not None
    assert queue.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.pop("queue"),
        lambda tensors: tensors.update(keys=torch.zeros(1)),
        lambda tensors: tensors.update(position=torch.zeros(2)),
        lambda tensors: tensors.update(short=torch.zeros(4, 2, 5, 16, dtype=torch.int64)),
    ],
    ids=["missing", "unknown", "position of floats", "memory of integers"],
)
def test_tensors_of_no_state_are_refused(damage: Any) -> None:
    """The message names the file and what is wrong."""
    tensors = make_model().initial_state(2).to_tensors()
    damage(tensors)

    with pytest.raises(CorruptionError, match=r"session 7.*restore"):
        MelodiState.from_tensors(tensors, where="session 7")


def test_the_queue_of_many_windows_does_not_grow() -> None:
    """The size of a state does not depend on the length of the text."""
    model = make_model(dtype=torch.float32)
    with torch.no_grad():
        state = model(make_tokens(50, batch_size=1)).state

    shapes = state_shapes(tiny_config(), 1)
    assert all(state.to_tensors()[name].shape == shape for name, shape in shapes.items())
    assert int(state.position[0]) == 50 * WINDOW
