"""MELODI's layers: short-term memory in all of them, a long-term queue in one.

In a window, each layer reads its short-term memory, the tokens and the summary tokens. What comes
out is mixed twice: into the summary for the next layer and into the short-term memory for the next
window. The long-term layer also reads a queue of what earlier windows left, and leaves something.

Source: MELODI (arXiv 2410.03156), in the equations of its released code (google-research/meliad).
Differs: slots of the queue that are not filled can be masked; there, and here by default, they are
zeros, which draw attention to nothing.
"""

from __future__ import annotations

import torch
from torch import nn

from memstore.errors import CodecMismatchError, ConfigError
from memstore.models.melodi_config import MelodiConfig
from memstore.models.melodi_layers import (
    Block,
    KeyValues,
    LayerMemory,
    TokenMixer,
    filled_slots,
    init_learned,
    push,
)
from memstore.models.melodi_state import MelodiState
from memstore.models.vq import ProductVQ


class MelodiLayer(nn.Module):
    """A block, and the mixers that make memory of what it gives.

    Args:
        config: the model's.
        is_long: it reads the queue and adds to it.

    Attributes:
        to_summary: for the next layer; None: the summary as it is.
        to_short: for the next window; None: the summary as it is, or no short-term memory.
        to_long: for the queue; None: not this layer.
        quantizer: puts decoded codes in the place of what goes into the queue; None: nothing does.
    """

    def __init__(self, config: MelodiConfig, *, is_long: bool) -> None:
        super().__init__()
        num_short, num_summary = config.num_short_tokens, config.num_summary_tokens
        num_mixed = config.window + num_summary
        self.num_summary_tokens = num_summary
        self.has_short = num_short > 0
        self.block = Block(
            config.dim, config.num_heads, config.ffn_dim, config.dropout, has_far=is_long
        )
        self.to_summary: TokenMixer | None = None
        self.to_short: TokenMixer | None = None
        self.to_long: TokenMixer | None = None
        self.quantizer: ProductVQ | None = None
        if config.has_branching and self.has_short:
            if num_summary:
                self.to_summary = TokenMixer(num_mixed, num_summary, config.dim, has_residual=True)
            self.to_short = TokenMixer(
                num_mixed, num_short, config.dim, has_residual=num_short == num_summary
            )
        if is_long:
            self.to_long = TokenMixer(
                num_mixed, config.num_long_tokens, config.dim, has_residual=False
            )

    def split(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens (B, W, D) and the summary (B, U, D) of a window."""
        num_tokens = hidden.shape[1] - self.num_summary_tokens
        return hidden[:, :num_tokens], hidden[:, num_tokens:]

    def next_layer(self, tokens: torch.Tensor, summary: torch.Tensor) -> torch.Tensor:
        """Return what the next layer reads, (B, W + U, D)."""
        mixed = summary if self.to_summary is None else self.to_summary(tokens, summary)
        return torch.cat([tokens, mixed], dim=1)

    def next_short(self, tokens: torch.Tensor, summary: torch.Tensor) -> torch.Tensor:
        """Return the short-term memory for the next window, (B, S, D)."""
        if not self.has_short:
            return summary[:, :0]
        mixed: torch.Tensor = summary
        if self.to_short is not None:
            mixed = self.to_short(tokens, summary)
        return mixed

    def next_long(
        self, tokens: torch.Tensor, summary: torch.Tensor, is_whole: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return what the window leaves in the queue, (B, L, D); rows that are not whole are not
        shown to the quantizer, which would learn from them.
        """
        assert self.to_long is not None  # noqa: S101 - the layer of the queue
        entries: torch.Tensor = self.to_long(tokens, summary)
        if self.quantizer is None:
            return entries
        shown = entries if is_whole is None else entries[is_whole]
        decoded = self.quantizer(shown.flatten(0, 1)).quantized.reshape(shown.shape)
        return decoded if is_whole is None else entries.index_put((is_whole,), decoded)


class MelodiStack(nn.Module):
    """The layers, and the summary tokens that every window begins with.

    Args:
        config: of MELODI.
    """

    def __init__(self, config: MelodiConfig) -> None:
        super().__init__()
        self.config = config
        self.long_index = config.long_index if config.num_long_tokens else -1
        self.layers = nn.ModuleList(
            MelodiLayer(config, is_long=index == self.long_index)
            for index in range(config.num_layers)
        )
        self.summary = nn.Parameter(
            init_learned(torch.empty(config.num_summary_tokens, config.dim))
        )

    def blocks(self) -> list[Block]:
        """Return the attention blocks, bottom first."""
        return [layer.block for layer in self._layers()]

    def open(self, state: MelodiState) -> list[LayerMemory]:
        """Return what the layers remember at the start of a window."""
        far = self._queue_memory(state)
        mask = self._queue_mask(state.position)
        return [
            LayerMemory(block.heads.remember(short), far, mask)
            if index == self.long_index
            else LayerMemory(block.heads.remember(short))
            for index, (block, short) in enumerate(
                zip(self.blocks(), state.short.unbind(0), strict=True)
            )
        ]

    def read(
        self, hidden: torch.Tensor, state: MelodiState, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, MelodiState]:
        """Read full windows and write memory at the end of each.

        Args:
            hidden: (B, n·W, D), embedded tokens.
            state: at their start.
            lengths: as of `Melodi.forward`.

        Returns:
            (B, n·W, D) before the last norm, and the state at their end.
        """
        window = self.config.window
        far = self._queue_memory(state)
        shorts, queue, position = list(state.short.unbind(0)), state.queue, state.position
        num_short = state.short.shape[2]
        biases = [block.make_bias(num_short, window + len(self.summary)) for block in self.blocks()]
        outputs = []
        for number, tokens in enumerate(torch.split(hidden, window, dim=1), 1):
            is_whole = None if lengths is None else lengths >= number * window
            mask = self._queue_mask(position)
            read = torch.cat([tokens, self.summary.expand(len(tokens), -1, -1)], dim=1)
            for index, layer in enumerate(self._layers()):
                memory = LayerMemory(layer.block.heads.remember(shorts[index]))
                if index == self.long_index:
                    memory = LayerMemory(memory.near, far, mask)
                read, _ = layer.block.extend(read, memory, biases[index])
                own, summary = layer.split(read)
                shorts[index] = layer.next_short(own, summary).to(state.short.dtype)
                if index == self.long_index and far is not None:
                    increment = layer.next_long(own, summary, is_whole).to(queue.dtype)
                    queue = push(queue, increment, dim=1)
                    far = far.push(layer.block.heads.remember(increment))
                read = layer.next_layer(own, summary)
            outputs.append(own)
            position = position + window
        return torch.cat(outputs, dim=1), MelodiState(position, torch.stack(shorts), queue)

    def quantize_queue(self, quantizer: ProductVQ | None) -> ProductVQ | None:
        """See `Melodi.quantize_queue`."""
        if self.long_index < 0:
            raise ConfigError("the model keeps no queue (num_long_tokens = 0) to quantize")
        if quantizer is not None:
            stages, dim = quantizer.stages, self.config.dim
            if stages.dim != dim or stages.has_predictor:
                wants = "token ids" if stages.has_predictor else f"vectors of width {stages.dim}"
                raise CodecMismatchError(
                    f"quantizer: wants {wants}; the queue's entries are of width {dim} and no "
                    "token's: take a codec trained on a sample of them (memstore session sample)"
                )
        layer = self._layers()[self.long_index]
        before, layer.quantizer = layer.quantizer, quantizer
        return before

    def _layers(self) -> list[MelodiLayer]:
        return [layer for layer in self.layers if isinstance(layer, MelodiLayer)]

    def _queue_memory(self, state: MelodiState) -> KeyValues | None:
        if self.long_index < 0:
            return None
        return self.blocks()[self.long_index].heads.remember(state.queue)

    def _queue_mask(self, position: torch.Tensor) -> torch.Tensor | None:
        if not self.config.masks_empty_slots or self.long_index < 0:
            return None
        return filled_slots(
            position,
            slots_per_window=self.config.num_long_tokens,
            window=self.config.window,
            num_slots=self.config.queue_length,
        )
