"""One LongVQ model: weights from a checkpoint, a forward pass over texts of any length, tapped at a
block.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from memstore.encoders.batching import pad
from memstore.encoders.checkpoint import Checkpoint
from memstore.encoders.documents import span_means
from memstore.encoders.stack import StackOutput
from memstore.errors import ShapeError
from memstore.models.longvq import LongVQ


class LongVQStack:
    """A checkpoint's model on one device, in float32.

    Args:
        checkpoint: what to load.
        device: a torch device.
        tap_layer: `memories` are the hidden state after this many blocks; after the last, the final
            norm included.
        runs_top: False if `pooled` is not wanted: the blocks above the tap are dropped.

    Raises:
        ConfigError, CorruptionError, FormatVersionError: as `LongVQ.from_pretrained`.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, device: str, tap_layer: int, runs_top: bool = True
    ) -> None:
        self.device = torch.device(device)
        # On a GPU too: bfloat16 neither counts the keys of a code nor holds a pole near 1.
        model = LongVQ.from_pretrained(checkpoint.folder).float()
        self._tap: torch.nn.Module | None = None
        if tap_layer == 0:
            self._tap = model.embedding
        elif tap_layer < len(model.blocks):
            self._tap = model.blocks[tap_layer - 1]
        if not runs_top:
            del model.blocks[max(tap_layer, 1) :]  # a model has one block or more
        self._model = model.to(self.device)
        # A hook belongs to the model: two passes at once would see each other's.
        self._lock = threading.Lock()

    def forward(
        self, sequences: Sequence[np.ndarray], spans: Sequence[int] | None = None
    ) -> StackOutput:
        """Run one padded batch.

        Args:
            sequences: B arrays (T_i,) of token ids.
            spans: tokens of each of P spans, which together are the sequences; None: each sequence
                is one. `pooled` has a row for each.

        Raises:
            ShapeError: if a sequence or span is empty, or an id not of the model's vocabulary.
            ConfigError: if the sequences are longer than memory allows; the size is named.
        """
        lengths = [len(ids) for ids in sequences]
        spans = lengths if spans is None else spans
        self._check(sequences, spans)
        ids, mask = (torch.from_numpy(each) for each in pad(sequences, 0))
        is_token = mask.bool()
        with self._lock, torch.inference_mode():
            is_padded = min(lengths) < max(lengths)
            tapped, top = self._run(
                ids.to(self.device), is_token.to(self.device) if is_padded else None
            )  # (B, L, D) each
            memories = tapped.cpu()[is_token].numpy()  # (T, D)
            rows = memories if top is tapped else top.cpu()[is_token].numpy()
        vectors = span_means(rows, spans)  # (P, D)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return StackOutput(memories, vectors / np.maximum(norms, np.finfo(np.float32).tiny))

    def cost(self, num_tokens: int) -> int:
        """Return how many tokens of a batch a sequence stands for: whole windows, two more of them
        for those that attention looks at before the first and after the last.
        """
        window = self._model.config.window
        return (-(-num_tokens // window) + 2) * window

    def _run(
        self, ids: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        captured: list[torch.Tensor] = []

        def keep(_module: object, _inputs: object, output: Any) -> None:
            captured.append(output if isinstance(output, torch.Tensor) else output.hidden)

        hook = self._tap.register_forward_hook(keep) if self._tap is not None else None
        try:
            top = self._model(ids, mask).hidden
        finally:
            if hook is not None:
                hook.remove()
        return (captured[0] if captured else top), top

    def _check(self, sequences: Sequence[np.ndarray], spans: Sequence[int]) -> None:
        # On a GPU an id out of range kills the process's CUDA context, so it is refused here.
        if not all(len(ids) for ids in sequences) or not all(spans):
            raise ShapeError("encoder: got a text without tokens, wanted one token or more")
        lowest = min(int(ids.min()) for ids in sequences)
        highest = max(int(ids.max()) for ids in sequences)
        num_ids = self._model.config.vocab_size
        if lowest < 0 or highest >= num_ids:
            raise ShapeError(
                f"encoder: got token ids from {lowest} to {highest}, wanted 0 to {num_ids - 1}; "
                "tokenize with this encoder's splitter"
            )
