"""The state-space layer: by blocks, by FFT and token by token it is the same."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from memstore.errors import ConfigError
from memstore.models.longvq_config import StateSpace
from memstore.models.longvq_ssm import Modes, StateSpaceLayer

KINDS = pytest.mark.parametrize("kind", [StateSpace.EMA, StateSpace.S4D])
DIRECTIONS = pytest.mark.parametrize("is_causal", [True, False])


def make_layer(kind: StateSpace, *, is_causal: bool) -> StateSpaceLayer:
    """Return a layer of three channels in float64."""
    torch.manual_seed(1)
    return StateSpaceLayer(3, 8, kind, is_causal=is_causal).double()


def make_inputs(length: int) -> torch.Tensor:
    """Return (2, length, 3)."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, length, 3, generator=generator, dtype=torch.float64)


def recur(modes: Modes, inputs: torch.Tensor) -> torch.Tensor:
    """The definition: s = λ·s + x, y = Re(w·s)."""
    log_poles, weights = modes()
    state = torch.zeros(len(inputs), *log_poles.shape, dtype=log_poles.dtype)
    outputs = []
    for now in inputs.unbind(1):
        state = log_poles.exp() * state + now[..., None]
        outputs.append((weights * state).sum(-1).real)
    return torch.stack(outputs, dim=1)


def reference(layer: StateSpaceLayer, inputs: torch.Tensor) -> torch.Tensor:
    """Token by token, in one direction or in both."""
    outputs = recur(layer.forwards, inputs) + layer.skip * inputs
    if layer.backwards is not None:
        outputs = outputs + recur(layer.backwards, inputs.flip(1)).flip(1)
    return outputs


@KINDS
@DIRECTIONS
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])
def test_convolution_is_recurrence(kind: StateSpace, is_causal: bool, length: int) -> None:
    """By blocks and by FFT, at lengths around a block."""
    layer, inputs = make_layer(kind, is_causal=is_causal), make_inputs(length)

    wanted = reference(layer, inputs)

    torch.testing.assert_close(layer(inputs)[0], wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.convolve(inputs), wanted, rtol=0, atol=1e-12)


@KINDS
@DIRECTIONS
def test_gradients_are_those_of_the_recurrence(kind: StateSpace, is_causal: bool) -> None:
    """Of the inputs and of every parameter."""
    layer, inputs = make_layer(kind, is_causal=is_causal), make_inputs(150).requires_grad_()
    weights = torch.randn(2, 150, 3, dtype=torch.float64)
    sources = [inputs, *layer.parameters()]

    got = torch.autograd.grad(layer(inputs)[0], sources, weights)
    wanted = torch.autograd.grad(reference(layer, inputs), sources, weights)

    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@KINDS
@pytest.mark.parametrize("cuts", [(0, 1, 2, 150), (0, 64, 150), (0, 70, 71, 149, 150)])
def test_a_text_in_parts_is_the_text(kind: StateSpace, cuts: tuple[int, ...]) -> None:
    """The state at any token is all that is needed to go on."""
    layer, inputs = make_layer(kind, is_causal=True), make_inputs(150)
    wanted, last = layer(inputs)

    outputs, state = [], None
    for start, stop in pairwise(cuts):
        output, state = layer(inputs[:, start:stop], state)
        outputs.append(output)

    torch.testing.assert_close(torch.cat(outputs, dim=1), wanted, rtol=0, atol=1e-12)
    assert state is not None
    assert state.shape == (2, *layer.state_shape)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)


def test_float32_agrees_over_a_long_text() -> None:
    """Rounding does not add up from block to block."""
    layer, inputs = make_layer(StateSpace.S4D, is_causal=True), make_inputs(5000)
    wanted = layer(inputs)[0]

    got = layer.float()(inputs.float())[0]

    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)


@KINDS
def test_half_precision_reads_with_wide_poles(kind: StateSpace) -> None:
    """The parameters are rounded once; powers of poles are not."""
    layer, inputs = make_layer(kind, is_causal=True).bfloat16(), make_inputs(100)
    wanted, _ = layer.double()(inputs)

    got, _ = layer.bfloat16()(inputs.bfloat16())

    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), wanted, rtol=0.03, atol=0.1)


def test_a_layer_needs_a_kind() -> None:
    """NONE is the absence of such a layer."""
    with pytest.raises(ConfigError, match="state_space"):
        StateSpaceLayer(3, 8, StateSpace.NONE, is_causal=True)
