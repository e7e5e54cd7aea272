"""What MELODI is compared with, of the same blocks: they differ in what they keep of a text.

- Transformer-XL keeps the keys and values of the last window in every layer.
- The Memorizing Transformer also keeps those of many windows in one layer, and attends to them all.
- The Block-Recurrent Transformer has, in one layer, states that read each window, in the place of
  the last window's keys and values.

Source: Transformer-XL (arXiv 1901.02860), Memorizing Transformers (arXiv 2203.08913),
Block-Recurrent Transformers (arXiv 2203.07852); memory as the MELODI paper (arXiv 2410.03156)
counts it.
Differs: position bias, norms, strict causality and the gate are MELODI's. The Memorizing
Transformer attends to all of its queue, not to the nearest keys, gradients reach back through the
queue within a segment, and its gate is per channel. The block-recurrent layer has no cache beside
its states, tokens query both with the same queries, and the gate takes the place of a joint output
projection.
"""

from __future__ import annotations

import torch
from torch import nn

from memstore.models.melodi_config import MelodiConfig
from memstore.models.melodi_layers import (
    Block,
    Heads,
    KeyValues,
    LayerMemory,
    filled_slots,
    join_heads,
    make_linear,
)
from memstore.models.melodi_state import (
    BlockRecurrentState,
    MemorizingState,
    TransformerXLState,
)

_STATE_STD = 0.1


class TransformerXLStack(nn.Module):
    """Every layer attends to its window and the one before.

    Args:
        config: `architecture` is not looked at.
    """

    def __init__(self, config: MelodiConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(_make_block(config) for _ in range(config.num_layers))

    def blocks(self) -> list[Block]:
        """Return the attention blocks, bottom first."""
        return _only_blocks(self.layers)

    def open(self, state: TransformerXLState) -> list[LayerMemory]:
        """Return what the layers remember at the start of a window."""
        return [LayerMemory(cache) for cache in _unstack(state.keys, state.values)]

    def read(
        self, hidden: torch.Tensor, state: TransformerXLState
    ) -> tuple[torch.Tensor, TransformerXLState]:
        """Read full windows, (B, n·W, D); return what the last layer gives and the state."""
        caches = []
        caches_in = _unstack(state.keys, state.values)
        for block, cache in zip(self.blocks(), caches_in, strict=True):
            hidden, cache_out, _ = _read_windows(block, hidden, cache)
            caches.append(cache_out)
        position = state.position + hidden.shape[1]
        return hidden, TransformerXLState(position, *_stack(caches, state.keys))


class MemorizingStack(nn.Module):
    """Transformer-XL, and in one layer dense attention to the keys and values of Q windows.

    Args:
        config: as `TransformerXLStack`.
    """

    def __init__(self, config: MelodiConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            _make_block(config, has_far=index == config.long_index)
            for index in range(config.num_layers)
        )

    def blocks(self) -> list[Block]:
        """Return the attention blocks, bottom first."""
        return _only_blocks(self.layers)

    def open(self, state: MemorizingState) -> list[LayerMemory]:
        """Return what the layers remember at the start of a window."""
        memories = [LayerMemory(cache) for cache in _unstack(state.keys, state.values)]
        index = self.config.long_index
        queue = KeyValues(state.queue_keys, state.queue_values)
        memories[index] = LayerMemory(memories[index].near, queue, self._queue_mask(state.position))
        return memories

    def read(
        self, hidden: torch.Tensor, state: MemorizingState
    ) -> tuple[torch.Tensor, MemorizingState]:
        """Read full windows, (B, n·W, D); return what the last layer gives and the state."""
        caches = []
        queue = KeyValues(state.queue_keys, state.queue_values)
        caches_in = _unstack(state.keys, state.values)
        for index, (block, cache) in enumerate(zip(self.blocks(), caches_in, strict=True)):
            if index == self.config.long_index:
                hidden, cache_out, own = _read_windows(
                    block, hidden, cache, queue, self._queue_masks(state.position, hidden)
                )
                queue = queue.push(own)
            else:
                hidden, cache_out, _ = _read_windows(block, hidden, cache)
            caches.append(cache_out)
        dtype = state.keys.dtype
        return hidden, MemorizingState(
            state.position + hidden.shape[1],
            *_stack(caches, state.keys),
            queue.keys.to(dtype),
            queue.values.to(dtype),
        )

    def _queue_masks(
        self, position: torch.Tensor, hidden: torch.Tensor
    ) -> list[torch.Tensor | None]:
        starts = range(0, hidden.shape[1], self.config.window)
        return [self._queue_mask(position + start) for start in starts]

    def _queue_mask(self, position: torch.Tensor) -> torch.Tensor | None:
        if not self.config.masks_empty_slots:
            return None
        window = self.config.window
        return filled_slots(
            position,
            slots_per_window=window,
            window=window,
            num_slots=window * self.config.queue_windows,
        )


class RecurrentLayer(nn.Module):
    """A block whose far memory is W states, and what the states read of a window.

    Each state has a learned place, attends to all states and to the window, and takes what it read
    through a gate with a learned bias; there is no feed-forward part.

    Args:
        config: as `TransformerXLStack`.
    """

    def __init__(self, config: MelodiConfig) -> None:
        super().__init__()
        dim = config.dim
        self.block = _make_block(config, has_far=True)
        self.state_heads = Heads(dim, config.num_heads, config.dropout)
        self.state_out = make_linear(2 * dim, dim)
        self.state_gate = nn.Parameter(nn.init.normal_(torch.empty(dim), std=_STATE_STD))
        self.places = nn.Parameter(nn.init.normal_(torch.empty(config.window, dim)))
        self.start = nn.Parameter(nn.init.normal_(torch.empty(config.window, dim), std=_STATE_STD))

    def begin(self, states: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Put the learned states (W, D) in the place of those of a text that begins."""
        return torch.where((position == 0)[:, None, None], self.start.to(states.dtype), states)

    def open(self, states: torch.Tensor) -> LayerMemory:
        """Return what tokens attend to: nothing near, the states (B, W, D) far."""
        far = self.state_heads.remember(states + self.places)
        return LayerMemory(_nothing(far), far)

    def read(
        self, tokens: torch.Tensor, states: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a window (B, W, D); return it and the next states."""
        queries, far = self.state_heads.project(states + self.places)
        tokens, after = self.block.extend(tokens, LayerMemory(_nothing(far), far), bias)
        read = [self.state_heads.read(queries, memory) for memory in (far, after.near)]
        update = self.state_out(torch.cat([join_heads(each) for each in read], dim=-1))
        share = self.state_gate.sigmoid()
        return tokens, (share * states + (1 - share) * update).to(states.dtype)


class BlockRecurrentStack(nn.Module):
    """Transformer-XL, with a `RecurrentLayer` in the place of one layer.

    Args:
        config: as `TransformerXLStack`.
    """

    def __init__(self, config: MelodiConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(_make_block(config) for _ in range(config.num_layers - 1))
        self.recurrent = RecurrentLayer(config)

    def blocks(self) -> list[Block]:
        """Return the attention blocks, bottom first."""
        blocks = _only_blocks(self.layers)
        blocks.insert(self.config.long_index, self.recurrent.block)
        return blocks

    def open(self, state: BlockRecurrentState) -> list[LayerMemory]:
        """Return what the layers remember at the start of a window."""
        memories = [LayerMemory(cache) for cache in _unstack(state.keys, state.values)]
        states = self.recurrent.begin(state.recurrent, state.position)
        memories.insert(self.config.long_index, self.recurrent.open(states))
        return memories

    def read(
        self, hidden: torch.Tensor, state: BlockRecurrentState
    ) -> tuple[torch.Tensor, BlockRecurrentState]:
        """Read full windows, (B, n·W, D); return what the last layer gives and the state."""
        caches: list[KeyValues] = []
        caches_in = _unstack(state.keys, state.values)
        states = self.recurrent.begin(state.recurrent, state.position)
        for index, block in enumerate(self.blocks()):
            if index == self.config.long_index:
                hidden, states = self._read_recurrent(hidden, states)
            else:
                hidden, cache, _ = _read_windows(block, hidden, caches_in[len(caches)])
                caches.append(cache)
        position = state.position + hidden.shape[1]
        keys, values = _stack(caches, state.keys)
        return hidden, BlockRecurrentState(position, keys, values, states)

    def _read_recurrent(
        self, hidden: torch.Tensor, states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = []
        bias = self.recurrent.block.make_bias(0, self.config.window)
        for tokens in hidden.chunk(hidden.shape[1] // self.config.window, dim=1):
            output, states = self.recurrent.read(tokens, states, bias)
            outputs.append(output)
        return torch.cat(outputs, dim=1), states


def _make_block(config: MelodiConfig, *, has_far: bool = False) -> Block:
    return Block(config.dim, config.num_heads, config.ffn_dim, config.dropout, has_far=has_far)


def _only_blocks(layers: nn.ModuleList) -> list[Block]:
    return [layer for layer in layers if isinstance(layer, Block)]


def _nothing(memory: KeyValues) -> KeyValues:
    return KeyValues(memory.keys[:, :, :0], memory.values[:, :, :0])


def _unstack(keys: torch.Tensor, values: torch.Tensor) -> list[KeyValues]:
    return [KeyValues(*each) for each in zip(keys.unbind(0), values.unbind(0), strict=True)]


def _stack(caches: list[KeyValues], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values (layers, B, H, W, D / H) in the dtype of `like`; of no layer, none."""
    if not caches:
        return like, like
    keys = torch.stack([each.keys for each in caches])
    values = torch.stack([each.values for each in caches])
    return keys.to(like.dtype), values.to(like.dtype)


def _read_windows(
    block: Block,
    hidden: torch.Tensor,
    cache: KeyValues,
    queue: KeyValues | None = None,
    masks: list[torch.Tensor | None] | None = None,
) -> tuple[torch.Tensor, KeyValues, KeyValues]:
    """Read n windows at once: in one layer, none of them waits for what another gives.

    Args:
        block: the layer.
        hidden: (B, n·W, D).
        cache: keys and values of the window before the first.
        queue: those of earlier windows, for a block with a far memory.
        masks: for each window, what of the queue it attends to.

    Returns:
        (B, n·W, D); keys and values of the last window; keys and values of all.
    """
    window = len(cache)
    num_windows = hidden.shape[1] // window
    queries, own = block.heads.project(hidden)
    parts = queries.chunk(num_windows, dim=2)
    folded = torch.cat(parts)  # (n·B, H, W, D / H)
    near = _fold(cache.append(own), window)
    read = block.read_near(folded, near, block.make_bias(window, window))
    read = torch.cat(read.chunk(num_windows), dim=2)  # (B, H, n·W, D / H)
    if queue is not None and masks is not None:
        whole = queue.append(own)
        far = [
            block.heads.read(part, _slice(whole, index * window, len(queue)), mask)
            for index, (part, mask) in enumerate(zip(parts, masks, strict=True))
        ]
        read = block.mix_far(read, torch.cat(far, dim=2))
    last = _slice(own, len(own) - window, window)
    return block.finish(hidden, read), last, own


def _slice(memory: KeyValues, start: int, length: int) -> KeyValues:
    return KeyValues(memory.keys.narrow(2, start, length), memory.values.narrow(2, start, length))


def _fold(memory: KeyValues, window: int) -> KeyValues:
    """Lay each window, with the one before it, side by side in the batch."""
    starts = range(0, len(memory) - window, window)
    parts = [_slice(memory, start, 2 * window) for start in starts]
    return KeyValues(
        torch.cat([part.keys for part in parts]), torch.cat([part.values for part in parts])
    )
