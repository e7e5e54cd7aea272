"""Where a snapshot's passages are found: by retrieval vector (faiss) and by id. Disposable, rebuilt
from the shards.
"""

from memstore.index.locator import Locator
from memstore.index.vectors import VectorIndex, ensure_inverted, open_index

__all__ = ["Locator", "VectorIndex", "ensure_inverted", "open_index"]
