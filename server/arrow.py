"""Answers as an Arrow IPC stream: one row a passage, its memory in the last column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
import orjson
import pyarrow as pa

from memstore.client.messages import PAGE_BYTES
from memstore.client.rows import CODES
from memstore.types import FetchResult, Memory, Passage, QueryResult

ARROW_STREAM = "application/vnd.apache.arrow.stream"

# Arrow has no bfloat16 and the words of a record are unsigned: both travel as int16 bit patterns.
_VALUE_TYPES = {
    CODES: pa.int16(),
    "bfloat16": pa.int16(),
    "float16": pa.float16(),
    "float32": pa.float32(),
}


def arrow_stream(result: QueryResult | FetchResult, dtype: str) -> Iterator[bytes]:
    """Yield the stream in pieces of about 1 MiB, each made only when it is asked for.

    Args:
        result: what to send.
        dtype: "uint16" for the codes, in the column `codes`; "bfloat16", "float16" or "float32" for
            decoded vectors, in the column `vectors`.
    """
    passages: Sequence[Passage] = (
        result.hits if isinstance(result, QueryResult) else result.passages
    )
    width = _row_width(result.memories, dtype)
    schema = _schema(result, dtype, width)
    sink = BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for start, end in _groups(result.memories, width * np.dtype(np.float32).itemsize):
            writer.write_batch(
                _batch(passages[start:end], result.memories[start:end], dtype, schema)
            )
            yield _drain(sink)
    yield _drain(sink)


def _drain(sink: BytesIO) -> bytes:
    piece = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return piece


def _row_width(memories: Sequence[Memory], dtype: str) -> int:
    if not memories:
        return 0
    codec = memories[0].codec
    return codec.record_words if dtype == CODES else codec.dim


def _schema(result: QueryResult | FetchResult, dtype: str, width: int) -> pa.Schema:
    fields = [
        ("passage_id", pa.string()),
        ("document_id", pa.string()),
        ("number", pa.int64()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("num_tokens", pa.int64()),
        ("metadata", pa.string()),
    ]
    if isinstance(result, QueryResult):
        fields.append(("score", pa.float64()))
    name = "codes" if dtype == CODES else "vectors"
    fields.append((name, pa.list_(pa.list_(_VALUE_TYPES[dtype], width))))
    codec = result.memories[0].codec if result.memories else None
    metadata = {
        "collection": result.collection,
        "version": str(result.version),
        "encoder_id": result.encoder_id,
        "codec_id": result.codec_id,
        "dtype": dtype,
        "record_words": str(codec.record_words if codec else 0),
        "dim": str(codec.dim if codec else 0),
    }
    return pa.schema(fields, metadata=metadata)


def _groups(memories: Sequence[Memory], row_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut the passages into runs of about 1 MiB of memories."""
    start, num_bytes = 0, 0
    for end, memory in enumerate(memories, start=1):
        num_bytes += memory.num_tokens * row_bytes
        if num_bytes >= PAGE_BYTES or end == len(memories):
            yield start, end
            start, num_bytes = end, 0


def _batch(
    passages: Sequence[Passage], memories: Sequence[Memory], dtype: str, schema: pa.Schema
) -> pa.RecordBatch:
    columns = {
        name: [getattr(passage, name) for passage in passages]
        for name in schema.names
        if name not in ("metadata", "codes", "vectors")
    }
    columns["metadata"] = [orjson.dumps(dict(passage.metadata)).decode() for passage in passages]
    table = np.concatenate(
        [memory.records if dtype == CODES else memory.decode(dtype) for memory in memories]
    )  # (T, W) or (T, D)
    if _VALUE_TYPES[dtype] == pa.int16():
        table = table.view(np.int16)
    offsets = np.cumsum([0, *(memory.num_tokens for memory in memories)], dtype=np.int32)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), table.shape[1])
    lists = pa.ListArray.from_arrays(pa.array(offsets), rows)
    arrays = [
        lists if name in ("codes", "vectors") else pa.array(columns[name], schema.field(name).type)
        for name in schema.names
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
