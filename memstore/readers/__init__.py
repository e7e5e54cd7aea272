"""Readers: models that answer questions from the memories of a store, a server or a user's class.

`LumenReader` retrieves, decodes on its device and generates. `langchain` and `llamaindex` lend a
store's retrieval to those frameworks; they need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memstore.readers.answers import Answer, Timings
    from memstore.readers.lumen import LumenReader
    from memstore.readers.sources import AsyncMemorySource

_MODULES = {
    "Answer": "answers",
    "AsyncMemorySource": "sources",
    "LumenReader": "lumen",
    "Timings": "answers",
}

__all__ = ["Answer", "AsyncMemorySource", "LumenReader", "Timings"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
