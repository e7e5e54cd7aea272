"""What is taken from transformers' T5: a checkpoint as a whole, and the layers of a stack."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import T5ForConditionalGeneration
from transformers.masking_utils import create_bidirectional_mask

from memstore.encoders.checkpoint import Checkpoint
from memstore.encoders.stack import quiet_transformers
from memstore.errors import ConfigError, CorruptionError


def load_t5(checkpoint: Checkpoint) -> Any:
    """Load a whole `T5ForConditionalGeneration` in float32 on the CPU.

    Raises:
        ConfigError: if the weights are not exactly those of the model in `config.json`.
        CorruptionError: if a weight file does not parse.
    """
    try:
        with quiet_transformers():
            model, report = T5ForConditionalGeneration.from_pretrained(
                checkpoint.folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except SafetensorError as err:
        raise CorruptionError(
            f"checkpoint {checkpoint.folder}: a weight file is no safetensors file or is cut "
            "short; download it again",
            object=checkpoint.folder,
        ) from err
    except (RuntimeError, ValueError, KeyError) as err:
        raise _no_t5(checkpoint, f"make no model together ({type(err).__name__})") from err
    missing, excess = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or excess:
        raise _no_t5(
            checkpoint,
            f"do not fit: {len(missing)} tensors missing, {len(excess)} too many (first: "
            f"{(missing + excess)[0]})",
        )
    return model


def _no_t5(checkpoint: Checkpoint, what: str) -> ConfigError:
    return ConfigError(
        f"checkpoint {checkpoint.folder}: config.json and the weights {what}; wanted a whole "
        "T5ForConditionalGeneration with its decoder; save both together",
        source=checkpoint.folder,
    )


def run_layers(stack: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Run the layers of a `T5Stack` on (N, L, D) with a mask (N, L) bool, without its dropouts.

    T5Stack.forward drops at both ends of the stack; at the cut nothing is to be dropped.
    """
    attention_mask = create_bidirectional_mask(
        config=stack.config, inputs_embeds=hidden, attention_mask=mask
    )
    position_bias = None
    for block in stack.block:
        hidden, position_bias, _ = block(hidden, attention_mask, position_bias)
    normalized: torch.Tensor = stack.final_layer_norm(hidden)
    return normalized
