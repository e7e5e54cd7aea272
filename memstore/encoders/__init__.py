"""Encoders: a frozen model that turns passages into token memories and retrieval vectors.

`EncoderOptions` says which; `read_identity` and `load_splitter` need no torch, `load_encoder` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memstore.encoders.identity import read_identity
from memstore.encoders.options import DEFAULT_SOURCE, EncoderOptions
from memstore.encoders.tokens import load_splitter
from memstore.errors import MissingDependencyError

if TYPE_CHECKING:
    from memstore.types import QuestionEncoder

__all__ = ["DEFAULT_SOURCE", "EncoderOptions", "load_encoder", "load_splitter", "read_identity"]


def load_encoder(options: EncoderOptions, *, device: str | None = None) -> QuestionEncoder:
    """Load an encoder; `device` None takes a GPU if there is one, else the CPU.

    Raises:
        ConfigError: if an option does not fit the checkpoint, or the checkpoint is not one that is
            read here.
        EncoderNotFoundError: if there is no such encoder.
        CorruptionError: if one of its files does not parse.
        MissingDependencyError: if torch or the package that brings the default encoder is not
            installed.
    """
    from memstore.encoders.identity import plan_encoder

    plan = plan_encoder(options)
    try:
        from memstore.encoders import huggingface, longvq, stack
    except ModuleNotFoundError as err:
        raise MissingDependencyError(
            f"encoding needs {err.name}, which is not installed; run "
            '"pip install memstore[models]"',
            extra="models",
        ) from err
    chosen = stack.choose_device(device)
    if plan.checkpoint.family.is_document_wide:
        return longvq.LongVQEncoder(plan, device=chosen)
    return huggingface.HuggingFaceEncoder(plan, device=chosen)
