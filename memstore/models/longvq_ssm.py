"""Linear state spaces with a diagonal matrix: each channel keeps some decaying sums of its past.

    s_t = λ·s_{t-1} + x_t        y_t = Re(w·s_t) + skip·x_t

MEGA's damped moving average has real λ and w, S4D complex ones; all else they share. The same y is
had in three ways: token by token, by FFT of the kernel k_j = Re(Σ w·λ^j), or block by block. The
last is what runs: it is matrix products alone, starts from any state, and is linear in length.

Source: MEGA (arXiv 2209.10655), S4D (arXiv 2206.11893); the blocks as in SSD (arXiv 2405.21060).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from memstore.errors import ConfigError
from memstore.models.longvq_config import StateSpace

# Tokens: within a block the kernel is applied as a matrix, across blocks by states.
_BLOCK = 64
# A logarithm: e^-50 is 2e-22.
_NOTHING = -50.0
# S4D's step sizes, drawn log-uniformly.
_STEPS = 1e-3, 1e-1


class Modes(Protocol):
    """Where λ and w come from."""

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log λ and w, each (C, modes), both real or both complex."""


class DampedEMA(nn.Module):
    """MEGA's modes: λ = 1 - σ(δ)·σ(α), w = σ(δ)·β·γ / √modes.

    Args:
        num_channels: C.
        num_modes: of a channel; MEGA has 16.
    """

    def __init__(self, num_channels: int, num_modes: int) -> None:
        super().__init__()
        shape = num_channels, num_modes
        self.delta = nn.Parameter(torch.empty(shape).normal_(0, 0.2))
        self.alpha = nn.Parameter(torch.empty(shape).normal_(0, 0.2))
        signs = 1.0 - 2.0 * (torch.arange(num_modes) % 2)
        self.beta = nn.Parameter(signs + torch.empty(shape).normal_(0, 0.02))
        self.gamma = nn.Parameter(torch.empty(shape).normal_())

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log λ and w."""
        share, alpha = _wide(self.delta).sigmoid(), _wide(self.alpha)
        weights = share * self.beta * self.gamma / math.sqrt(self.beta.shape[1])
        return torch.log1p(-share * alpha.sigmoid()), weights


class S4D(nn.Module):
    """S4D-Lin's modes: λ = exp(Δ·A) with A = -½ + iπn at first, and w by zero-order hold.

    Half as many modes as real numbers: each stands for itself and its conjugate.

    Args:
        num_channels: C.
        num_modes: complex ones, of a channel.
    """

    def __init__(self, num_channels: int, num_modes: int) -> None:
        super().__init__()
        shape = num_channels, num_modes
        low, high = (math.log(each) for each in _STEPS)
        self.log_step = nn.Parameter(torch.empty(num_channels, 1).uniform_(low, high))
        self.log_decay = nn.Parameter(torch.full(shape, math.log(0.5)))
        self.frequency = nn.Parameter(torch.pi * torch.arange(num_modes).repeat(num_channels, 1))
        self.readout = nn.Parameter(torch.empty(*shape, 2).normal_(0, math.sqrt(0.5)))

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log λ and w."""
        rate = torch.complex(-_wide(self.log_decay).exp(), _wide(self.frequency))
        log_poles = _wide(self.log_step).exp() * rate
        # Re of one of a pair, twice, is the pair.
        weights = 2 * torch.view_as_complex(_wide(self.readout)) * (log_poles.exp() - 1) / rate
        return log_poles, weights


class StateSpaceLayer(nn.Module):
    """A state space for every channel, in one direction or in both.

    Args:
        dim: D, channels.
        state_size: real numbers of state for a channel and direction.
        kind: where λ and w come from; not NONE.
        is_causal: one direction; else a second one reads from the end, and both are added up.

    Attributes:
        state_shape: (D, modes, parts): the state of one text; two parts are one complex number.
    """

    def __init__(self, dim: int, state_size: int, kind: StateSpace, *, is_causal: bool) -> None:
        super().__init__()
        if kind is StateSpace.NONE:
            raise ConfigError("state_space: got none, wanted ema or s4d for such a layer")
        parts = 1 if kind is StateSpace.EMA else 2
        num_modes = state_size // parts
        family = DampedEMA if kind is StateSpace.EMA else S4D
        self.is_causal = is_causal
        self.forwards: Modes = family(dim, num_modes)
        self.backwards: Modes | None = None if is_causal else family(dim, num_modes)
        self.skip = nn.Parameter(torch.empty(dim).normal_())
        self.state_shape = dim, num_modes, parts

    def forward(
        self, inputs: torch.Tensor, state: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mix each channel with its past, and with its future if there are two directions.

        Args:
            inputs: (B, L, D), L ≥ 1; zeros where there is no token.
            state: (B, D, modes, parts), after what came before; None: zeros. For one direction.

        Returns:
            (B, L, D), and the state at the end; None with two directions.

        Cost: 2·L·D·(block + 2·modes) floating-point operations a direction.
        """
        length, given_dtype = inputs.shape[1], inputs.dtype
        inputs = _wide(inputs)
        block = min(_BLOCK, length)
        blocks = _to_blocks(inputs, block)  # (D, B, A, block)
        modes = self.forwards()
        poles = modes[0]
        start = None if state is None else _as_modes(_wide(state).transpose(0, 1).flatten(2), poles)
        sums = _times(blocks, _columns(_powers(poles, block).flip(2)))
        entering = _carry(sums, block * poles, start)
        carried = [(entering, modes)]
        taps = _taps(modes, block)
        if self.backwards is not None:
            behind = self.backwards()
            leaving = _times(blocks, _columns(_powers(behind[0], block))).flip(2)
            carried.append((_carry(leaving, block * behind[0], None).flip(2), behind))
            taps = _two_sided(taps, _taps(behind, block))
        mixed = torch.bmm(blocks.flatten(1, 2), _toeplitz(taps, block))
        for index, (states, (log_poles, weights)) in enumerate(carried):
            readout = weights[..., None] * _powers(log_poles, block + 1)[..., 1:]
            readout = readout.flip(2) if index else readout  # the second direction reads backwards
            mixed = torch.baddbmm(mixed, _rows(states).flatten(1, 2), _readout(readout))
        mixed = _transposed(mixed.flatten(1)).view(len(inputs), -1, inputs.shape[2])[:, :length]
        outputs = torch.addcmul(mixed, inputs, _wide(self.skip)).to(given_dtype)
        if not self.is_causal:
            return outputs, None
        return outputs, _final_state(blocks, entering, poles, length)

    def convolve(self, inputs: torch.Tensor) -> torch.Tensor:
        """Do the same by FFT, from no state: (B, L, D) to (B, L, D).

        Cost: O(L log L) a channel; the kernel is held for the whole length.
        """
        length = inputs.shape[1]
        size = 2 * length
        kernel = F.pad(_taps(self.forwards(), length), (0, length))
        if self.backwards is not None:
            # Lag -j is found at place size - j of a circle; lag 0 is shared.
            behind = F.pad(_taps(self.backwards(), length), (0, length))
            kernel = kernel + behind.flip(1).roll(1, 1)
        spectrum = torch.fft.rfft(inputs.transpose(1, 2), n=size) * torch.fft.rfft(kernel)
        mixed = torch.fft.irfft(spectrum, n=size)[..., :length]
        outputs: torch.Tensor = mixed.transpose(1, 2) + self.skip * inputs
        return outputs


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of at least 32 bits: a pole near 1 needs the digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _to_blocks(inputs: torch.Tensor, block: int) -> torch.Tensor:
    """Return (D, B, A, block): channels first, the last block filled up with zeros."""
    batch_size, length, dim = inputs.shape
    padded = F.pad(inputs, (0, 0, 0, -length % block))
    return _transposed(padded.flatten(0, 1)).view(dim, batch_size, -1, block)


class _Transpose(torch.autograd.Function):
    """A transposed copy, whose gradient is one too: of matrices torch makes these fast."""

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor) -> torch.Tensor:
        return matrix.t().contiguous()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad.t().contiguous()


def _transposed(matrix: torch.Tensor) -> torch.Tensor:
    """Return (n, m) of (m, n)."""
    copy: torch.Tensor = _Transpose.apply(matrix)  # type: ignore[no-untyped-call]
    return copy


def _times(rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Return (C, B, A, n): (C, B, A, m) times each channel's (m, n)."""
    return torch.bmm(rows.flatten(1, 2), matrices).view(*rows.shape[:3], -1)


def _powers(log_poles: torch.Tensor, count: int) -> torch.Tensor:
    """Return (C, modes, count): λ^0, λ^1 and so on."""
    exponents = torch.arange(count, device=log_poles.device, dtype=log_poles.real.dtype)
    return _decayed(log_poles[..., None] * exponents)


def _decayed(logarithms: torch.Tensor) -> torch.Tensor:
    """Return exp, and zeros where it is nothing beside 1.

    Products of such numbers would be denormal, with which a processor takes a hundred times longer.
    """
    return torch.where(logarithms.real < _NOTHING, 0, torch.exp(logarithms))


def _taps(modes: tuple[torch.Tensor, torch.Tensor], count: int) -> torch.Tensor:
    """Return (C, count), the kernel; of long ones no table of all powers is made."""
    log_poles, weights = modes
    inner = max(1, math.isqrt(count))
    starts = weights[..., None] * _powers(inner * log_poles, -(-count // inner))
    table = starts.transpose(1, 2) @ _powers(log_poles, inner)  # (C, outer, inner)
    return (table.real if table.is_complex() else table).flatten(1)[:, :count]


def _two_sided(ahead: torch.Tensor, behind: torch.Tensor) -> torch.Tensor:
    """Return (C, 2·block - 1): the kernel from lag -(block - 1) to lag block - 1."""
    middle = ahead[:, :1] + behind[:, :1]
    return torch.cat([behind[:, 1:].flip(1), middle, ahead[:, 1:]], dim=1)


def _toeplitz(taps: torch.Tensor, block: int) -> torch.Tensor:
    """Return (C, block, block): row j, column i is the tap of lag i - j."""
    if taps.shape[1] == block:
        taps = F.pad(taps, (block - 1, 0))
    return taps.unfold(1, block, 1).flip(1)


def _columns(powers: torch.Tensor) -> torch.Tensor:
    """Return (C, time, modes·parts), real, from (C, modes, time)."""
    return _rows(powers.transpose(1, 2))


def _rows(states: torch.Tensor) -> torch.Tensor:
    """Return (…, modes·parts), real, of modes."""
    return torch.view_as_real(states).flatten(-2) if states.is_complex() else states


def _readout(readout: torch.Tensor) -> torch.Tensor:
    """Return (C, modes·parts, time), what `_rows` are multiplied with to have Re of a product."""
    if not readout.is_complex():
        return readout
    return torch.stack([readout.real, -readout.imag], dim=2).flatten(1, 2)


def _as_modes(numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return (…, modes), real or complex as the poles are, of (…, modes·parts)."""
    if not like.is_complex():
        return numbers
    return torch.view_as_complex(numbers.reshape(*numbers.shape[:-1], -1, 2))


def _carry(sums: torch.Tensor, log_decay: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
    """Return the states in which blocks begin.

    Args:
        sums: (C, B, A, modes·parts), what each block adds to the state after it.
        log_decay: (C, modes), of a state over one block.
        start: (C, B, modes), the state before the first block; None: zeros.

    Returns:
        (C, B, A, modes).
    """
    decay = _decayed(log_decay)[:, None]
    added = _as_modes(sums, log_decay).permute(2, 0, 1, 3)
    first = torch.zeros_like(added[0]) if start is None else start
    entering: torch.Tensor = _Scan.apply(torch.cat([first[None], added[:-1]]), decay)  # type: ignore[no-untyped-call]
    return entering.permute(1, 2, 0, 3)


class _Scan(torch.autograd.Function):
    """s_t = decay·s_{t-1} + x_t along the first dimension, in place of x; decay is (C, 1, modes).

    By itself torch would keep and go back through every step: thousands of small operations.
    """

    @staticmethod
    def forward(ctx: Any, added: torch.Tensor, decay: torch.Tensor) -> torch.Tensor:
        for before, here in pairwise(added.unbind()):
            here.addcmul_(decay, before)
        ctx.mark_dirty(added)
        ctx.save_for_backward(added, decay)
        return added

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, decay = ctx.saved_tensors
        grad = grad.clone(memory_format=torch.contiguous_format)
        conjugate = decay.conj()
        for after, here in pairwise(reversed(grad.unbind())):
            here.addcmul_(conjugate, after)
        of_decay = (grad[1:] * states[:-1].conj()).sum((0, 2))[:, None]
        return grad, of_decay


def _final_state(
    blocks: torch.Tensor, entering: torch.Tensor, log_poles: torch.Tensor, length: int
) -> torch.Tensor:
    """Return (B, C, modes, parts): the state after the last token, which may be amid a block."""
    num_left = length - blocks.shape[3] * (blocks.shape[2] - 1)
    powers = _powers(log_poles, num_left + 1)
    last = blocks[:, :, -1, :num_left] @ _columns(powers[..., :-1].flip(2))
    state = _as_modes(last, log_poles) + powers[:, None, :, -1] * entering[:, :, -1]
    parts = torch.view_as_real(state) if state.is_complex() else state[..., None]
    return parts.transpose(0, 1)
