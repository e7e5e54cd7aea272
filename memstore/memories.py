"""The shape that memories must have to be written; a store and its clients check it alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memstore.errors import ConfigError, ShapeError
from memstore.types import Passage


def check_memories(passages: Sequence[Passage], memories: Sequence[np.ndarray]) -> int:
    """Check that there is one memory a passage, (T, D) with T ≥ 1 and one D ≥ 1; return D.

    Raises:
        ConfigError: if there are no passages. ShapeError: if the memories are not such.
    """
    if not passages:
        raise ConfigError("no passages to write")
    if len(passages) != len(memories):
        raise ShapeError(
            f"{len(passages)} passages and {len(memories)} memories; wanted one memory a passage"
        )
    dim = memories[0].shape[-1] if memories[0].ndim == 2 else 0
    for passage, memory in zip(passages, memories, strict=True):
        if memory.ndim != 2 or 0 in memory.shape or memory.shape[1] != dim:
            raise ShapeError(
                f"memory of passage {passage.passage_id!r} has shape {memory.shape}; "
                f"wanted (T, {dim}) with T ≥ 1"
            )
    return int(dim)
