"""Takes in one write over the wire, message by message, and never more of it than allowed."""

from __future__ import annotations

from typing import Any

import numpy as np

from memstore.client.messages import passage_from_proto
from memstore.client.rows import RowTable, TableShape, split_rows
from memstore.errors import InvalidInputError
from memstore.types import Passage
from memstore.v1 import memory_service_pb2 as pb

_MODES = {
    pb.WRITE_MODE_UNSPECIFIED: "append",
    pb.WRITE_MODE_APPEND: "append",
    pb.WRITE_MODE_UPSERT: "upsert",
    pb.WRITE_MODE_REPLACE: "replace",
}
_FIX = "see WriteRequest in memory_service.proto"


class Upload:
    """The messages of one write: one header, then passages, then the rows of their memories.

    Args:
        limit_bytes: bytes of all messages and of the memories that they announce.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._num_bytes = 0
        self._header: pb.WriteHeader | None = None
        self._passages: list[Passage] = []
        self._embeddings: list[np.ndarray] = []
        self._table: RowTable | None = None

    def add(self, request: pb.WriteRequest) -> None:
        """Take the next message.

        Raises:
            InvalidInputError: if it is out of order, or the write too large.
            CorruptionError: if a chunk was damaged on the way.
        """
        part = request.WhichOneof("part")
        if (part == "header") != (self._header is None):
            raise InvalidInputError(f"write: the header comes once and first; {_FIX}")
        if part == "header":
            self._header = request.header
        elif part == "passages":
            if self._table is not None:
                raise InvalidInputError(f"write: passages come before chunks; {_FIX}")
            self._count(request.ByteSize())
            for new in request.passages.passages:
                self._passages.append(passage_from_proto(new.passage))
                self._embeddings.append(np.array(new.embedding, dtype=np.float32))
        elif part == "chunk":
            self._rows().add(request.chunk)
        else:
            raise InvalidInputError(f"write: an empty message; {_FIX}")

    def finish(self) -> dict[str, Any]:
        """Return the arguments of `Store.write`.

        Raises:
            InvalidInputError: if something is missing.
        """
        header = self._whole_header()
        table = self._rows().finish()
        if header.mode not in _MODES:
            raise InvalidInputError(f"write: mode number {header.mode} is not one of WriteMode")
        counts = [passage.num_tokens for passage in self._passages]
        return {
            "passages": self._passages,
            "memories": split_rows(table, counts),
            "embeddings": self._stacked_embeddings(),
            "mode": _MODES[header.mode],
            "collection": header.collection,
            "encoder_id": header.encoder_id,
        }

    def _whole_header(self) -> pb.WriteHeader:
        if self._header is None:
            raise InvalidInputError(f"write: no header came; {_FIX}")
        return self._header

    def _rows(self) -> RowTable:
        header = self._whole_header()
        if self._table is None:
            if len(self._passages) != header.num_passages:
                raise InvalidInputError(
                    f"write: {len(self._passages)} passages came, the header says "
                    f"{header.num_passages}"
                )
            counts = [passage.num_tokens for passage in self._passages]
            if min(counts, default=0) < 0 or header.dim < 1:
                raise InvalidInputError(f"write: num_tokens and dim must not be negative; {_FIX}")
            self._count(4 * sum(counts) * header.dim)
            shape = TableShape(
                num_rows=sum(counts), row_width=header.dim, dtype="float32", codec_id=""
            )
            self._table = RowTable(shape, fault=InvalidInputError)
        return self._table

    def _count(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes > self._limit_bytes:
            raise InvalidInputError(
                f"write: {self._num_bytes:,} bytes and more, at most {self._limit_bytes:,} in one "
                "call; split it into several writes",
                limit_bytes=self._limit_bytes,
            )

    def _stacked_embeddings(self) -> np.ndarray | None:
        widths = {len(embedding) for embedding in self._embeddings}
        if widths <= {0}:
            return None
        if len(widths) > 1:
            raise InvalidInputError(f"write: embeddings of widths {sorted(widths)}, wanted one")
        return np.stack(self._embeddings)  # (N, E)
