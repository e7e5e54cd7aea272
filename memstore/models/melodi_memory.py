"""How many floats a model keeps of a text, by formula, under three conventions.

The paper's own is uneven: a token of Transformer-XL's cache, of the Memorizing Transformer's queue
and of MELODI's queue is charged a key and a value, one of MELODI's short-term memory or a recurrent
state only its embedding. A table that uses it says so and gives another beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from memstore.models.melodi_config import Architecture, MelodiConfig


class Convention(StrEnum):
    """What a remembered token is charged, in vectors of D floats."""

    PAPER = "paper"
    """Cached and queued tokens 2 (key and value), short-term tokens and recurrent states 1."""
    EMBEDDINGS = "embeddings"
    """All of them 1, as if keys and values were always made anew."""
    STORED = "stored"
    """What the state of this implementation holds: MELODI's queue is embeddings, 1; caches of keys
    and values 2."""


@dataclass(frozen=True, slots=True)
class MemoryFloats:
    """Floats kept of one text.

    Attributes:
        short: of the last window, or carried from window to window.
        long: of the queue.
    """

    short: int
    long: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.short + self.long


@dataclass(frozen=True, slots=True)
class _Charges:
    cached: int
    queued: int


_CHARGES: Mapping[Convention, _Charges] = {
    Convention.PAPER: _Charges(cached=2, queued=2),
    Convention.EMBEDDINGS: _Charges(cached=1, queued=1),
    Convention.STORED: _Charges(cached=2, queued=1),
}


def memory_floats(config: MelodiConfig, convention: Convention = Convention.PAPER) -> MemoryFloats:
    """Return what a model keeps of a text that is long enough to fill its memory.

    Source: MELODI (arXiv 2410.03156), the memory columns of its tables.
    """
    charges = _CHARGES[convention]
    window_cache = charges.cached * config.window * config.dim  # of one layer
    match config.architecture:
        case Architecture.MELODI:
            short = config.num_short_tokens * config.num_layers * config.dim
            return MemoryFloats(short, charges.queued * config.queue_length * config.dim)
        case Architecture.TRANSFORMER_XL:
            return MemoryFloats(window_cache * config.num_layers, 0)
        case Architecture.MEMORIZING:
            return MemoryFloats(
                window_cache * config.num_layers, window_cache * config.queue_windows
            )
        case Architecture.BLOCK_RECURRENT:
            states = config.window * config.dim
            return MemoryFloats(window_cache * (config.num_layers - 1) + states, 0)


def mixer_weights(config: MelodiConfig) -> int:
    """Return the weights that summary branching and the queue add to a Transformer.

    Two mixers in each layer and one for the queue; their biases, the norms before them, the
    summary embeddings and the gate are left out, as the paper's totals do.

    Source: (W + U)·(U + S)·N + (W + U)·L; with U = S, the paper's (W + S)·S·2 per layer.
    """
    mixed = config.window + config.num_summary_tokens
    branches = 0
    if config.has_branching and config.num_short_tokens:
        branches = config.num_summary_tokens + config.num_short_tokens
    return mixed * (branches * config.num_layers + config.num_long_tokens)
