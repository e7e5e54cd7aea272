"""memstore: a compressed store of token memories for reader models.

`import memstore` is light: torch, faiss, numba and grpc are imported by what needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memstore.client import AsyncClient, Client
    from memstore.codec import ProductCodec
    from memstore.service import Store, open_store
    from memstore.types import Document, Memory, Passage
    from memstore.verbs import encode

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "memstore.client",
    "Client": "memstore.client",
    "Document": "memstore.types",
    "Memory": "memstore.types",
    "Passage": "memstore.types",
    "ProductCodec": "memstore.codec",
    "Store": "memstore.service",
    "encode": "memstore.verbs",
    "open_store": "memstore.service",
}

__all__ = [
    "AsyncClient",
    "Client",
    "Document",
    "Memory",
    "Passage",
    "ProductCodec",
    "Store",
    "encode",
    "open_store",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'memstore' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
