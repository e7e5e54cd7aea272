"""A collection at one version: its shards in order, and which of their rows are live.

Rows are numbered through the shards in the order of the manifest's lists. Shards are opened, and
their heads verified, when they are first touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memstore.storage.manifest import Manifest
from memstore.storage.schema import FILTER_COLUMNS, METADATA_TYPES, shard_schema
from memstore.storage.shard import Shard
from memstore.storage.where import columns_named, compile_where
from memstore.types import Passage

_ROW = "#row"  # no metadata column can have this name


class Snapshot:
    """An immutable view of a collection.

    Attributes:
        manifest: what this version says of itself.
        shards: all shards, in row order.
        deleted: (num_deleted,) int64, the rows that are gone, rising.
    """

    def __init__(self, manifest: Manifest, shards: Sequence[Shard], deleted: np.ndarray) -> None:
        self.manifest = manifest
        self.shards = tuple(shards)
        self.deleted = deleted
        self._starts = np.zeros(len(self.shards) + 1, dtype=np.int64)
        np.cumsum([shard.entry.num_passages for shard in self.shards], out=self._starts[1:])

    @property
    def version(self) -> int:
        """The version's number."""
        return self.manifest.version

    @property
    def num_rows(self) -> int:
        """N, deleted rows included."""
        return int(self._starts[-1])

    @cached_property
    def live(self) -> np.ndarray:
        """(N,) bool, False for deleted rows."""
        mask = np.ones(self.num_rows, dtype=bool)
        mask[self.deleted] = False
        mask.flags.writeable = False
        return mask

    def passage(self, row: int) -> Passage:
        """Return the passage of a row."""
        shard, local = self._locate(row)
        return shard.passage(local)

    def records(self, row: int) -> np.ndarray:
        """Return the records of a row: (T, W) uint16, read-only, checked against their crc32c."""
        shard, local = self._locate(row)
        return shard.records(local)

    def embeddings(self, start: int = 0) -> np.ndarray:
        """Return the retrieval vectors of the rows from `start` on: (N - start, E) float16."""
        parts = []
        for number, shard in enumerate(self.shards):
            skip = max(0, start - int(self._starts[number]))
            if skip < shard.entry.num_passages:
                parts.append(shard.embeddings()[skip:])
        if not parts:
            return np.zeros((0, self.manifest.embedding_dim), dtype=np.float16)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def embedding_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the retrieval vectors of these rows, which rise: (len(rows), E) float16."""
        cuts = np.searchsorted(rows, self._starts)
        parts = [
            shard.embeddings()[rows[cuts[i] : cuts[i + 1]] - self._starts[i]]
            for i, shard in enumerate(self.shards)
            if cuts[i] < cuts[i + 1]
        ]
        return np.concatenate(parts) if parts else self.embeddings(self.num_rows)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of all rows; nulls where a shard lacks it."""
        return self._table.column(name)

    def rows_with(self, column: str, values: pa.Array) -> np.ndarray:
        """Return the live rows whose `column` holds one of `values`: (n,) int64, rising."""
        if not self.num_rows or not len(values):
            return np.zeros(0, dtype=np.int64)
        found = pc.is_in(self.column(column), value_set=values).to_numpy()
        return np.flatnonzero(found & self.live)

    def matching(self, where: str) -> np.ndarray:
        """Return which rows are live and pass a filter: (N,) bool.

        Raises:
            ConfigError: if the filter does not parse or does not fit the columns.
        """
        schema = self._table.schema
        expression = compile_where(where, {field.name: field.type for field in schema})
        # Only what the filter names: the rows that pass are copied, with every column they have.
        named = self._table.select(columns_named(where, schema.names))
        rows = named.append_column(_ROW, pa.array(np.arange(self.num_rows)))
        passed = rows.filter(expression).column(_ROW).to_numpy()
        mask = np.zeros(self.num_rows, dtype=bool)
        mask[passed] = True
        mask &= self.live
        return mask

    def _locate(self, row: int) -> tuple[Shard, int]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.shards[number], row - int(self._starts[number])

    @cached_property
    def _table(self) -> pa.Table:
        manifest = self.manifest
        all_columns = shard_schema(1, 1, manifest.metadata_columns)
        names = [*FILTER_COLUMNS, *sorted(manifest.metadata_columns)]
        schema = pa.schema([all_columns.field(name) for name in names])
        tables = []
        for shard in self.shards:
            present = shard.columns.schema.names
            columns = [
                shard.columns.column(name)
                if name in present
                else pa.nulls(
                    shard.entry.num_passages, METADATA_TYPES[manifest.metadata_columns[name]]
                )
                for name in names
            ]
            tables.append(pa.Table.from_arrays(columns, schema=schema))
        return pa.concat_tables(tables) if tables else schema.empty_table()
