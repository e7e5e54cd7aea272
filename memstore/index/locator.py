"""Passage id → row, by binary search in the order of the ids.

Costs 8 bytes a row beside the ids, which stay where the shards hold them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from memstore.errors import PassageNotFoundError
from memstore.storage import Snapshot


class Locator:
    """Finds the live rows of a snapshot by passage id."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._ids = snapshot.column("passage_id")
        order: np.ndarray = pc.sort_indices(self._ids).to_numpy().astype(np.int64)
        self._order = order[
            snapshot.live[order]
        ]  # a superseded passage shares its id with its successor

    def rows(self, passage_ids: Sequence[str]) -> list[int]:
        """Return the row of each id.

        Raises:
            PassageNotFoundError: names the first ten ids that have no live row.
        """
        found = [self._find(passage_id) for passage_id in passage_ids]
        missing = [name for name, row in zip(passage_ids, found, strict=True) if row is None]
        if missing:
            manifest = self._snapshot.manifest
            raise PassageNotFoundError(
                f"{len(missing)} of {len(found)} passages are not in version {manifest.version} of "
                "collection "
                f"{manifest.collection!r}: {', '.join(map(repr, missing[:10]))}",
                collection=manifest.collection,
                version=manifest.version,
            )
        return [row for row in found if row is not None]

    def _find(self, passage_id: str) -> int | None:
        # Arrow sorts by UTF-8 bytes; what is no UTF-8 is looked for like anything else, in vain.
        wanted = passage_id.encode(errors="surrogatepass")
        low, high = 0, len(self._order)
        while low < high:
            middle = (low + high) // 2
            if self._ids[int(self._order[middle])].as_py().encode() < wanted:
                low = middle + 1
            else:
                high = middle
        if low < len(self._order):
            row = int(self._order[low])
            if self._ids[row].as_py() == passage_id:
                return row
        return None
