"""Session memory: what a MELODI model keeps of a text that grows, durable and small.

Does not: import torch before a model is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memstore.sessions.codec_training import sample_queue, train_queue_codec
    from memstore.sessions.language import SessionModel
    from memstore.sessions.source import SessionMemories
    from memstore.sessions.store import SessionStore, open_sessions
    from memstore.sessions.values import Continuation, SessionHit, SessionInfo, SessionWindow

_MODULES = {
    "Continuation": "values",
    "SessionHit": "values",
    "SessionInfo": "values",
    "SessionMemories": "source",
    "SessionModel": "language",
    "SessionStore": "store",
    "SessionWindow": "values",
    "open_sessions": "store",
    "sample_queue": "codec_training",
    "train_queue_codec": "codec_training",
}

__all__ = [
    "Continuation",
    "SessionHit",
    "SessionInfo",
    "SessionMemories",
    "SessionModel",
    "SessionStore",
    "SessionWindow",
    "open_sessions",
    "sample_queue",
    "train_queue_codec",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
