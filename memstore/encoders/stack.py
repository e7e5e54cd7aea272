"""One Transformer encoder in torch: weights from a checkpoint, a forward pass tapped at a layer.

The tap is a hook, so that one layer's output is kept and not the whole stack's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError

from memstore.encoders.batching import pad
from memstore.encoders.checkpoint import Checkpoint
from memstore.errors import ConfigError, CorruptionError, ShapeError


@dataclass(frozen=True, slots=True, eq=False)
class StackOutput:
    """What one batch of B sequences gives.

    Attributes:
        memories: (T, D) float32, the sequences' hidden states one after another, without padding.
        pooled: (B, D) float32, unit length.
    """

    memories: np.ndarray
    pooled: np.ndarray


class EncoderStack:
    """A checkpoint's layers on one device: float32 on a CPU, bfloat16 on a GPU.

    Args:
        checkpoint: what to load.
        device: a torch device.
        tap_layer: `memories` are the hidden state after this many layers; None: after the last
            (final norm included).
        runs_top: False if `pooled` is not wanted: the layers above the tap are dropped.

    Raises:
        ConfigError: if the weights do not fit `config.json`.
        CorruptionError: if a weight file does not parse.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str,
        tap_layer: int | None = None,
        runs_top: bool = True,
    ) -> None:
        self.device = torch.device(device)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        model = load_model(checkpoint, dtype)
        layers = model.get_submodule(checkpoint.family.layers)
        tap_layer = len(layers) if tap_layer is None else tap_layer
        self._tap = None  # then the model's own output: T5 normalizes after its last layer
        if tap_layer == 0:
            self._tap = model.get_submodule(checkpoint.family.embeddings)
        elif tap_layer < len(layers):
            self._tap = layers[tap_layer - 1]
        if not runs_top:
            del layers[tap_layer:]
        self._model = model.to(self.device)
        self._num_ids = int(model.get_input_embeddings().num_embeddings)
        self._max_tokens = checkpoint.max_tokens
        self._pad_token_id = checkpoint.pad_token_id
        self._pooling = checkpoint.pooling if runs_top else "mean"
        # A hook belongs to the model: two passes at once would see each other's.
        self._lock = threading.Lock()

    def forward(self, sequences: Sequence[np.ndarray]) -> StackOutput:
        """Run one padded batch.

        Args:
            sequences: B arrays (T_i,) of token ids, special tokens included.

        Raises:
            ShapeError: if a sequence is empty, longer than the model's positions, or not of the
                model's vocabulary.
        """
        ids, mask = pad(sequences, self._pad_token_id)
        self._check(ids, mask)
        with self._lock, torch.inference_mode():
            ids_on_device = torch.from_numpy(ids).to(self.device)
            mask_on_device = torch.from_numpy(mask).to(self.device)
            tapped, top = self._run(ids_on_device, mask_on_device)  # (B, L, D) each
            memories = tapped[mask_on_device.bool()].float()  # (T, D)
            pooled = self._pool(top.float(), mask_on_device)  # (B, D)
            return StackOutput(memories.cpu().numpy(), pooled.cpu().numpy())

    def cost(self, num_tokens: int) -> int:
        """Return how many tokens of a batch a sequence stands for: its own."""
        return num_tokens

    def _run(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        captured: list[torch.Tensor] = []

        def keep(_module: torch.nn.Module, _inputs: object, output: Any) -> None:
            captured.append(output[0] if isinstance(output, tuple) else output)

        hook = self._tap.register_forward_hook(keep) if self._tap is not None else None
        try:
            top: torch.Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        finally:
            if hook is not None:
                hook.remove()
        return (captured[0] if captured else top), top

    def _pool(self, top: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self._pooling == "cls":
            vectors = top[:, 0]
        else:
            weights = mask.unsqueeze(-1).float()  # (B, L, 1)
            vectors = (top * weights).sum(1) / weights.sum(1)  # (B, D)
        return torch.nn.functional.normalize(vectors, dim=1)

    def _check(self, ids: np.ndarray, mask: np.ndarray) -> None:
        # On a GPU an id out of range kills the process's CUDA context, so it is refused here.
        if not mask.any(axis=1).all():
            raise ShapeError("encoder: got a text without tokens, wanted one token or more")
        if self._max_tokens is not None and ids.shape[1] > self._max_tokens:
            raise ShapeError(
                f"encoder: got a text of {ids.shape[1]} tokens, wanted at most "
                f"{self._max_tokens}; cut it with this encoder's splitter"
            )
        if ids.min() < 0 or ids.max() >= self._num_ids:
            raise ShapeError(
                f"encoder: got token ids from {ids.min()} to {ids.max()}, wanted 0 to "
                f"{self._num_ids - 1}; tokenize with this encoder's splitter"
            )


def choose_device(device: str | None) -> str:
    """Return a device that is there; None: a GPU if there is one, else the CPU.

    Raises:
        ConfigError: if torch does not see it.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as err:  # torch's words for "no such device"
        raise ConfigError(
            f"encoder device: got {device!r}, wanted one that torch sees on this machine, such as "
            '"cpu"',
            device=device,
        ) from err
    return device


def load_model(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """Return the transformers model of a checkpoint, its weights in a dtype.

    Raises:
        ConfigError: if the family has no such model. CorruptionError: if the weights do not fit.
    """
    family = checkpoint.family
    if not family.architecture:
        raise ConfigError(
            f"checkpoint {checkpoint.folder}: model_type is {family.model_type!r}, wanted one that "
            "transformers loads",
            source=checkpoint.folder,
        )
    architecture = getattr(transformers, family.architecture)
    arguments = {"add_pooling_layer": False} if family.has_pooler else {}
    try:
        with quiet_transformers():
            model, report = architecture.from_pretrained(
                checkpoint.folder,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **arguments,
            )
    except SafetensorError as err:
        raise CorruptionError(
            f"checkpoint {checkpoint.folder}: a weight file is no safetensors file or is cut "
            "short; download it again",
            object=checkpoint.folder,
        ) from err
    except (RuntimeError, ValueError, KeyError) as err:
        raise ConfigError(
            f"checkpoint {checkpoint.folder}: config.json and the weights make no model together "
            f"({type(err).__name__}); save both together",
            source=checkpoint.folder,
        ) from err
    missing = sorted(report["missing_keys"])
    # Heads of other tasks may lie beside the encoder; layers of the encoder that config.json does
    # not count may not.
    excess = sorted(key for key in report["unexpected_keys"] if f"{family.layers}." in key)
    if missing or excess:
        raise ConfigError(
            f"checkpoint {checkpoint.folder}: weights lack {len(missing)} tensors of the model in "
            f"config.json and have {len(excess)} too many (first: {(missing + excess)[0]}); save "
            "both together",
            source=checkpoint.folder,
        )
    return model.eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold transformers' bars and reports while it loads: what matters is raised as an error."""
    log = transformers.utils.logging
    verbosity, shows_bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if shows_bars:
            log.enable_progress_bar()
