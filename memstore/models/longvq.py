"""LongVQ: an encoder, or a language model, of time and memory linear in the length of a text.

Every block mixes neighbours with a state space and then attends to the whole text: token by token
nearby, through vector-quantized keys beyond. It reads bytes or tokens in both directions, or only
backwards; then a text can be read in parts, with a state of fixed size between them.

Source: LongVQ (arXiv 2404.11163). What the paper leaves open is in docs/adr/0009-longvq.md.
Does not: choose what is masked or predicted (training does).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from memstore.errors import NotFiniteError, ShapeError
from memstore.models.checkpoints import (
    TOKENIZER_FILE,
    collect_weights,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)
from memstore.models.longvq_block import BlockOutput, LayerState, LongVQBlock
from memstore.models.longvq_config import LongVQConfig, parse_config
from memstore.models.longvq_memory import check_memory, estimate_bytes
from memstore.models.longvq_quantizer import COLLAPSED_BELOW, CodeUse, check_finite
from memstore.models.longvq_state import LongVQState, check_state, initial_state

KIND = "longvq"
_IGNORED = -100


@dataclass(frozen=True, slots=True, eq=False)
class LongVQOutput:
    """What was read.

    Attributes:
        hidden: (B, L, D), a state for each token; zeros where there is none.
        quantizer_loss: (), weighted, to be added to the loss of a task.
        state: after the tokens, cut from the graph; None if none was given.
    """

    hidden: torch.Tensor
    quantizer_loss: torch.Tensor
    state: LongVQState | None


class LongVQ(nn.Module):
    """The model.

    In training mode every forward pass moves the codebooks, whether gradients are recorded or not.

    Args:
        config: the shape; weights are drawn at random.
        checkpointing: keep only what enters each block, and run it again backward: less memory for
            more time. The last block is what backward begins with: to run it again frees nothing.

    Attributes:
        config: what it was built from.
        checkpointing: as said; may be changed at any time.
    """

    def __init__(self, config: LongVQConfig, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.config, self.checkpointing = config, checkpointing
        self._had = 0  # bytes that the largest pass took
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)
        self.blocks = nn.ModuleList(LongVQBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LongVQ:
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
            tokenizer: content of the `tokenizer.json` that belongs to it; None: none (bytes).

        Raises:
            ConfigError: if the folder holds something.
            StorageFullError, StorageError: if it cannot be written.
        """
        write_checkpoint(
            Path(folder),
            kind=KIND,
            config=self.config.to_dict(),
            tensors=collect_weights(self),
            files={} if tokenizer is None else {TOKENIZER_FILE: tokenizer},
        )

    def initial_state(self, batch_size: int) -> LongVQState:
        """Return the state at the start of `batch_size` texts, where and in what the model is.

        Raises:
            ConfigError: if the model cannot read a text in parts.
        """
        weight = self.embedding.weight
        return initial_state(self.config, batch_size, device=weight.device, dtype=weight.dtype)

    def forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor | None = None,
        state: LongVQState | None = None,
    ) -> LongVQOutput:
        """Read texts, whole or what follows of them.

        Args:
            tokens: (B, L) int64, L ≥ 1; any id where there is no token.
            mask: (B, L) bool, True where there is a token; None: everywhere.
            state: of what came before, a row for each text; `initial_state` at their beginning.

        Raises:
            ShapeError: if tokens, mask or state do not fit together, a token is none of the
                vocabulary's (looked at on the CPU).
            NotFiniteError: if a value is not.
            ConfigError: if the text is longer than memory allows (the size is named), or the model
                cannot read a text in parts.
        """
        self._check(tokens, mask, state)
        if mask is not None:
            tokens = tokens.masked_fill(~mask, 0)
        self._check_ids(tokens)
        hidden = self.dropout(self.embedding(tokens))
        losses, uses, states = [], [], []
        for index, block in enumerate(self._blocks()):
            given = None if state is None else state.layer(index, self.config)
            output = self._run(block, hidden, mask, given)
            hidden = output.hidden
            losses.append(output.loss)
            if output.use is not None:
                uses.append(output.use)
            if output.state is not None:
                states.append(output.state)
        hidden = self.norm(hidden)
        if mask is not None:
            hidden = hidden.masked_fill(~mask[..., None], 0)
        _check_hidden(hidden)
        if self.training:
            self._learn(uses)
        num_tokens = torch.full_like(tokens[:, 0], tokens.shape[1]) if mask is None else mask.sum(1)
        after = None if state is None else state.after(states, num_tokens)
        return LongVQOutput(hidden, torch.stack(losses).sum(), after)

    def predict(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return (…, V) logits of a token: the next one, or the one that was masked.

        Args:
            hidden: (…, D).
        """
        return F.linear(self.dropout(hidden), self.embedding.weight)

    def loss(self, output: LongVQOutput, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy over the targets that count, with the quantizer's loss.

        Args:
            output: of `forward`.
            targets: (B, L) int64, the token that each state should give; -100 is not counted, and
                costs nothing.

        Raises:
            ShapeError: if there is not one for each state.
        """
        if targets.shape != output.hidden.shape[:2]:
            raise ShapeError(
                f"targets: got {tuple(targets.shape)}, wanted {tuple(output.hidden.shape[:2])}"
            )
        is_counted = targets != _IGNORED
        logits = self.predict(output.hidden[is_counted]).float()
        total = F.cross_entropy(logits, targets[is_counted], reduction="sum")
        return total / is_counted.sum().clamp(min=1) + output.quantizer_loss

    def usage_perplexity(self) -> torch.Tensor:
        """Return (layers, H) float32: codes in use of late; (0, H) if there are no codebooks."""
        found = [
            block.quantizer.usage_perplexity()
            for block in self._blocks()
            if block.quantizer is not None
        ]
        return torch.stack(found) if found else torch.zeros(0, self.config.num_heads)

    def collapsed_codebooks(self) -> list[tuple[int, int]]:
        """Return (layer, head) of each codebook that hardly tells keys apart: one code has all."""
        is_collapsed = self.usage_perplexity() < COLLAPSED_BELOW
        return [(layer, head) for layer, head in is_collapsed.nonzero().tolist()]

    def _blocks(self) -> list[LongVQBlock]:
        return [block for block in self.blocks if isinstance(block, LongVQBlock)]

    def _run(
        self,
        block: LongVQBlock,
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        state: LayerState | None,
    ) -> BlockOutput:
        # A copy, so that a second run finds the same codes whatever was learnt in between.
        centroids = None if block.quantizer is None else block.quantizer.centroids()
        runs_again = self.checkpointing and block is not self.blocks[-1]
        if not (runs_again and torch.is_grad_enabled()):
            return block(hidden, mask, centroids, state)  # type: ignore[no-any-return]
        return checkpoint(  # type: ignore[no-any-return]
            block, hidden, mask, centroids, state, use_reentrant=False
        )

    def _learn(self, uses: list[CodeUse]) -> None:
        check_finite(uses)
        quantizers = [each.quantizer for each in self._blocks() if each.quantizer is not None]
        for quantizer, use in zip(quantizers, uses, strict=True):
            quantizer.learn(use)

    def _check(
        self, tokens: torch.Tensor, mask: torch.Tensor | None, state: LongVQState | None
    ) -> None:
        if tokens.ndim != 2 or tokens.dtype != torch.int64 or 0 in tokens.shape:
            raise ShapeError(
                f"tokens: got {tuple(tokens.shape)} {tokens.dtype}, wanted (B, L) int64, both at "
                "least 1"
            )
        if mask is not None and (mask.shape != tokens.shape or mask.dtype != torch.bool):
            raise ShapeError(
                f"mask: got {tuple(mask.shape)} {mask.dtype}, wanted {tuple(tokens.shape)} bool, "
                "as of tokens"
            )
        if state is not None:
            self.initial_state(0)  # raises if the model has none
            check_state(state, self.config, len(tokens))
        wanted = estimate_bytes(
            self.config,
            *tokens.shape,
            itemsize=self.embedding.weight.element_size(),
            keeps_activations=torch.is_grad_enabled(),
            checkpointing=self.checkpointing,
        )
        # A processor's memory that was freed may still count as taken: nothing is asked for twice.
        if wanted > self._had:
            check_memory(wanted, tokens.shape, tokens.device)
            self._had = wanted

    def _check_ids(self, tokens: torch.Tensor) -> None:
        if tokens.device.type != "cpu":  # a look would wait for the device
            return
        least, most = (int(each) for each in torch.aminmax(tokens))
        if least < 0 or most >= self.config.vocab_size:
            raise ShapeError(
                f"tokens: got ids from {least} to {most}, wanted 0 to {self.config.vocab_size - 1}"
            )


class LongVQClassifier(nn.Module):
    """The mean of a text's states, and a linear layer.

    Args:
        model: reads the texts.
        num_classes: of which each text has one.
    """

    def __init__(self, model: LongVQ, num_classes: int) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(model.config.dim, num_classes)

    def forward(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (B, classes) logits, and the quantizer's loss.

        Args:
            tokens: as of `LongVQ.forward`.
            mask: as of `LongVQ.forward`.
        """
        output = self.model(tokens, mask)
        num_tokens = tokens.shape[1] if mask is None else mask.sum(1, keepdim=True).clamp(min=1)
        return self.head(output.hidden.sum(1) / num_tokens), output.quantizer_loss


def _check_hidden(hidden: torch.Tensor) -> None:
    is_bad = ~torch.isfinite(hidden.detach()).flatten(1).all(dim=1)
    if bool(is_bad.any()):
        row = int(is_bad.nonzero()[0])
        raise NotFiniteError(
            f"row {row}: the model gives NaN or infinity; nothing was learnt from this batch; "
            "lower the learning rate or clip gradients, and go on from a checkpoint",
            row=row,
        )
