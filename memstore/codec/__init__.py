"""Vectors to records and back: the product quantizer, its training, and its error.

Does not: import Numba or faiss before they are needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memstore.codec.product import ProductCodec
    from memstore.codec.quality import ReconstructionError, reconstruction
    from memstore.codec.training import Layout, choose_layout, train_codebook

_MODULES = {
    "Layout": "training",
    "ProductCodec": "product",
    "ReconstructionError": "quality",
    "choose_layout": "training",
    "reconstruction": "quality",
    "train_codebook": "training",
}

__all__ = [
    "Layout",
    "ProductCodec",
    "ReconstructionError",
    "choose_layout",
    "reconstruction",
    "train_codebook",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
