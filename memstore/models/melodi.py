"""MELODI: a language model for texts longer than any window, with two small memories.

A text is read window by window. `forward` reads a segment, some windows at once, and carries a
state from one segment to the next; `generate` writes token by token. Memory is written at the end
of a window and not before, whichever way it was read.

Source: MELODI (arXiv 2410.03156), in the equations of its released code (google-research/meliad).
Does not: split a text into segments, or choose when one begins (training and sessions do).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from memstore.errors import ConfigError, ShapeError
from memstore.models.checkpoints import (
    TOKENIZER_FILE,
    collect_weights,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)
from memstore.models.melodi_baselines import (
    BlockRecurrentStack,
    MemorizingStack,
    TransformerXLStack,
)
from memstore.models.melodi_config import Architecture, MelodiConfig, parse_config
from memstore.models.melodi_layers import Block, LayerMemory, make_norm
from memstore.models.melodi_stack import MelodiStack
from memstore.models.melodi_state import StreamState, check_state, initial_state
from memstore.models.vq import ProductVQ

KIND = "melodi"
_IGNORED = -100


class Stack(Protocol):
    """What the four architectures have in common. The state is each one's own."""

    def blocks(self) -> list[Block]:
        """Return the attention blocks, bottom first."""

    def open(self, state: Any) -> list[LayerMemory]:
        """Return what the layers remember at the start of a window."""

    def read(self, hidden: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Read full windows; return what the last layer gives and the state at their end."""


@dataclass(frozen=True, slots=True, eq=False)
class MelodiOutput:
    """What a training step needs.

    Attributes:
        logits: (B, T, V), of the token after each.
        loss: (), mean cross-entropy over the targets; None if there are none.
        state: after the last full window, cut from the graph.
    """

    logits: torch.Tensor
    loss: torch.Tensor | None
    state: StreamState


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A window that is being read token by token. `Melodi.open_window` gives one.

    Attributes:
        state: at its start.
        tokens: (B, P) int64, what was read of it, 0 to W tokens. Memory does not hold them yet.
        memories: what the layers attend to, those tokens included.
    """

    state: StreamState
    tokens: torch.Tensor
    memories: list[LayerMemory]


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """What was written, and what it takes to go on.

    Attributes:
        ids: (B, T) int64, the new tokens.
        state: at the end of the last window that memory holds.
        tail: (B, P) int64, P ≥ 1, the tokens since, the last new one included. `generate` with
            this state and tail goes on.
    """

    ids: torch.Tensor
    state: StreamState
    tail: torch.Tensor


class Melodi(nn.Module):
    """The model, or a baseline of the same blocks if its config says so.

    Args:
        config: the shape; weights are drawn at random.

    Attributes:
        config: what it was built from.
        embedding: the table of the input, and of the output.
        stack: the layers.
    """

    def __init__(self, config: MelodiConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)  # deviation 1
        self.stack: Stack = _make_stack(config)
        self.norm = make_norm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Melodi:
        """Load what `save_pretrained` wrote; in eval mode, on the CPU.

        Raises:
            NotFoundError: if there is no checkpoint.
            ConfigError: if it is of another kind. FormatVersionError: if it is newer.
            CorruptionError: if it is damaged.
        """
        values, tensors = read_checkpoint(Path(folder), kind=KIND)
        config = parse_config(values, where=str(folder))
        with torch.device("meta"):
            model = cls(config)
        load_weights(model, tensors, where=str(folder))
        return model.eval()

    def save_pretrained(self, folder: str | Path, tokenizer: bytes | None = None) -> None:
        """Write the model, all or nothing, in the dtypes that it has.

        Args:
            folder: where; new or empty.
            tokenizer: content of the `tokenizer.json` that belongs to it; None: none.

        Raises:
            ConfigError: if the folder holds something, or the queue is quantized.
            StorageFullError, StorageError: if it cannot be written.
        """
        tensors = collect_weights(self)
        if any(".quantizer." in name for name in tensors):
            raise ConfigError("model.quantize_queue(None) first: its quantizer is saved as a codec")
        write_checkpoint(
            Path(folder),
            kind=KIND,
            config=self.config.to_dict(),
            tensors=tensors,
            files={} if tokenizer is None else {TOKENIZER_FILE: tokenizer},
        )

    def initial_state(self, batch_size: int) -> StreamState:
        """Return the state at the start of `batch_size` texts, where and in what the model is."""
        weight = self.embedding.weight
        return initial_state(self.config, batch_size, device=weight.device, dtype=weight.dtype)

    def quantize_queue(self, quantizer: ProductVQ | None) -> ProductVQ | None:
        """Let the queue hold what codes of its entries decode to, from here on.

        In eval mode, in float32 on a CPU, entries have the bits of the codec's
        `decode(encode(entries))`. In training mode the codebook follows the entries of each window,
        and gradients pass as if nothing were lost. Take it off, by None, to save the model.

        Args:
            quantizer: where the model is; from a codec without a predictor. None: entries as they
                are.

        Returns:
            The one that was there before.

        Raises:
            ConfigError: if the model keeps no queue.
            CodecMismatchError: if the quantizer is of another width, or wants token ids.
        """
        if not isinstance(self.stack, MelodiStack):
            raise ConfigError(
                f"only MELODI's queue is of entries of its own; got {self.config.architecture}"
            )
        return self.stack.quantize_queue(quantizer)

    def forward(
        self,
        tokens: torch.Tensor,
        state: StreamState | None = None,
        targets: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
    ) -> MelodiOutput:
        """Read a segment: windows one after the other, gradients through all of their memory.

        Args:
            tokens: (B, T) int64, T ≥ 1. What is left over a multiple of W is read but not
                remembered: give it again, at the start of what follows.
            state: of what came before, a row for each text; None: all texts begin here.
            targets: (B, T) int64, the token after each; -100 is not counted.
            lengths: (B,) int64, tokens of each row, the rest of which is padding: a quantizer of
                the queue learns from windows that are whole. None: T.

        Raises:
            ShapeError: if tokens, state or targets do not fit together.
        """
        state = self._checked(tokens, state)
        if targets is not None and targets.shape != tokens.shape:
            raise ShapeError(
                f"targets: got {tuple(targets.shape)}, wanted {tuple(tokens.shape)}, that of tokens"
            )
        hidden = self.embedding(tokens)
        whole = tokens.shape[1] // self.config.window * self.config.window
        outputs = []
        if whole:
            read = self.stack.read
            if lengths is not None and isinstance(self.stack, MelodiStack):
                read = partial(self.stack.read, lengths=lengths)
            output, state = read(hidden[:, :whole], state)
            outputs.append(output)
        if whole < tokens.shape[1]:
            output, _ = self._extend(hidden[:, whole:], self.stack.open(state))
            outputs.append(output)
        logits = self._predict(torch.cat(outputs, dim=1))
        loss = None if targets is None else _mean_loss(logits, targets)
        return MelodiOutput(logits, loss, state.detach())

    def open_window(self, state: StreamState) -> Window:
        """Begin a window that `extend` reads on.

        Raises:
            ShapeError: if the state is not this model's.
        """
        batch_size = len(state.position)
        check_state(state, self.config, batch_size)
        tokens = torch.empty(batch_size, 0, dtype=torch.int64, device=state.position.device)
        return Window(state, tokens, self.stack.open(state))

    def extend(self, window: Window, tokens: torch.Tensor) -> tuple[torch.Tensor, Window]:
        """Read tokens on; a window that is full is put into memory when a token comes after it.

        Call it under `torch.no_grad`, unless gradients through all that was read are wanted.

        Args:
            window: where the text is.
            tokens: (B, T) int64, T ≥ 1, what follows.

        Returns:
            (B, V), the logits of what comes next, and the window now.

        Raises:
            ShapeError: if the tokens do not fit.
        """
        self._checked(tokens, window.state)
        state, memories, fresh = window.state, window.memories, tokens
        pending = torch.cat([window.tokens, tokens], dim=1)
        whole = (pending.shape[1] - 1) // self.config.window * self.config.window
        if whole:
            _, state = self.stack.read(self.embedding(pending[:, :whole]), state)
            memories = self.stack.open(state)
            fresh = pending = pending[:, whole:]
        hidden, memories = self._extend(self.embedding(fresh), memories)
        return self._predict(hidden[:, -1]), Window(state, pending, memories)

    @torch.no_grad()
    def generate(
        self,
        tokens: torch.Tensor,
        state: StreamState | None = None,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Generation:
        """Go on with texts. Call `eval` first, or dropout runs.

        Args:
            tokens: (B, T) int64, T ≥ 1, what follows on the state; of any length.
            state: of what came before; None: all texts begin here.
            max_new_tokens: tokens to write, 1 or more.
            temperature: 0: the likeliest token; else what the logits are divided by before one is
                drawn.
            generator: draws them.

        Raises:
            ShapeError: as `forward`.
        """
        window = self.open_window(self._checked(tokens, state))
        ids: list[torch.Tensor] = []
        follow = tokens
        for _ in range(max_new_tokens):
            logits, window = self.extend(window, follow)
            follow = _choose(logits, temperature, generator)  # (B, 1)
            ids.append(follow)
        tail = torch.cat([window.tokens, follow], dim=1)
        return Generation(torch.cat(ids, dim=1), window.state, tail)

    def _extend(
        self, hidden: torch.Tensor, memories: list[LayerMemory]
    ) -> tuple[torch.Tensor, list[LayerMemory]]:
        """Read part of a window: tokens never see the summary, so without it."""
        after = []
        for block, memory in zip(self.stack.blocks(), memories, strict=True):
            hidden, now = block.extend(hidden, memory)
            after.append(now)
        return hidden, after

    def _predict(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(self.norm(hidden))
        return F.linear(hidden, self.embedding.weight) / math.sqrt(self.config.dim)

    def _checked(self, tokens: torch.Tensor, state: StreamState | None) -> StreamState:
        if tokens.ndim != 2 or tokens.dtype != torch.int64 or 0 in tokens.shape:
            raise ShapeError(
                f"tokens: got {tuple(tokens.shape)} {tokens.dtype}, wanted (B, T) int64, both at "
                "least 1"
            )
        if state is None:
            return self.initial_state(len(tokens))
        check_state(state, self.config, len(tokens))
        return state


def _make_stack(config: MelodiConfig) -> Stack:
    match config.architecture:
        case Architecture.MELODI:
            return MelodiStack(config)
        case Architecture.TRANSFORMER_XL:
            return TransformerXLStack(config)
        case Architecture.MEMORIZING:
            return MemorizingStack(config)
        case Architecture.BLOCK_RECURRENT:
            return BlockRecurrentStack(config)


def _mean_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean over the targets that count; 0 if none does."""
    total = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=_IGNORED, reduction="sum"
    )
    return total / (targets != _IGNORED).sum().clamp(min=1)


def _choose(
    logits: torch.Tensor, temperature: float, generator: torch.Generator | None
) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    shares = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(shares, 1, generator=generator)
