"""The two stages of every partition, whoever drives them: tokenize, then encode and store.

Both are plain: a function, and a class that is built once a worker and called once a partition.
Token ids travel between them as Arrow bytes; memories never leave the encoding stage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa

from encoder_jobs.records import JobPlace
from encoder_jobs.spec import Receipt
from memstore.codec import ProductCodec
from memstore.cores import num_cores
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.errors import EncoderMismatchError
from memstore.storage import ShardContent, ShardEntry
from memstore.text import BadRecord, Partition, coerce_row, read_partition
from memstore.types import MemoryEncoder, Passage, PassageSplitter, TokenizedPassage
from memstore.views import load_codec


@dataclass(frozen=True, slots=True)
class TokenizedPartition:
    """A partition ready for the encoder."""

    number: int
    passages: list[TokenizedPassage]
    bad_records: list[BadRecord]

    def to_bytes(self) -> bytes:
        """Return it as an Arrow IPC stream."""
        table = pa.table(
            {
                "document_id": [p.passage.document_id for p in self.passages],
                "number": [p.passage.number for p in self.passages],
                "title": [p.passage.title for p in self.passages],
                "text": [p.passage.text for p in self.passages],
                "start": [p.passage.start for p in self.passages],
                "end": [p.passage.end for p in self.passages],
                "num_tokens": [p.passage.num_tokens for p in self.passages],
                "metadata": [json.dumps(dict(p.passage.metadata)) for p in self.passages],
                "token_ids": pa.array([p.token_ids for p in self.passages], pa.list_(pa.int32())),
                "is_last": [p.is_last for p in self.passages],
            },
            metadata={
                "number": str(self.number),
                "bad_records": json.dumps([asdict(bad) for bad in self.bad_records]),
            },
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    @classmethod
    def from_bytes(cls, data: bytes) -> TokenizedPartition:
        """Build from `to_bytes`."""
        table = pa.ipc.open_stream(data).read_all()
        about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        passages = []
        for row in table.to_pylist():
            token_ids = np.array(row.pop("token_ids"), dtype=np.int32)
            is_last = row.pop("is_last")
            passage = Passage(**{**row, "metadata": json.loads(row["metadata"])})
            passages.append(TokenizedPassage(passage, token_ids, is_last))
        bad_records = [BadRecord(**bad) for bad in json.loads(about["bad_records"])]
        return cls(int(about["number"]), passages, bad_records)


def tokenize(
    partition: Partition, splitter: PassageSplitter, metadata_columns: dict[str, str]
) -> TokenizedPartition:
    """Read a partition's documents and cut them into passages."""
    passages: list[TokenizedPassage] = []
    bad_records: list[BadRecord] = []
    for item in read_partition(partition):
        if isinstance(item, BadRecord):
            bad_records.append(item)
        else:
            metadata = coerce_row(item.metadata, metadata_columns)
            passages.extend(splitter.split(replace(item, metadata=metadata)))
    return TokenizedPartition(partition.index, passages, bad_records)


def use_all_cores() -> None:
    """Let torch and faiss use every core that this process may use, whatever the launcher set: the
    same thread counts give the same bytes in-process and under Ray, which tells its workers to use
    one thread.
    """
    import faiss
    import torch

    if torch.cuda.is_available():  # several workers share such a machine, and its cores do little
        return
    torch.set_num_threads(num_cores())
    faiss.omp_set_num_threads(num_cores())


@lru_cache(maxsize=4)
def cached_splitter(options: EncoderOptions) -> PassageSplitter:
    """Return the splitter of these options, built once a process."""
    return load_splitter(options)


@lru_cache(maxsize=1)
def cached_encoder(options: EncoderOptions, encoder_id: str) -> MemoryEncoder:
    """Return the encoder of these options, loaded once a process.

    Raises:
        EncoderMismatchError: if this machine has another encoder of that name.
    """
    encoder = load_encoder(options)
    if encoder.identity.id != encoder_id:
        raise EncoderMismatchError(
            f"encoder {options.source!r} is {encoder.identity.id[:16]} here, the job was planned "
            f"with {encoder_id[:16]}; put the same checkpoint on every machine",
            wanted=encoder_id,
            got=encoder.identity.id,
        )
    return encoder


def encode_passages(
    encoder: MemoryEncoder,
    codec: ProductCodec,
    passages: Sequence[TokenizedPassage],
    *,
    search: str = "exact",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the passages' records and retrieval vectors, in their order.

    Memories are quantized batch by batch, so no more than one batch of them exists at a time.

    Returns:
        (sum of num_tokens, W) uint16 and (N, E) float32.
    """
    offsets = np.zeros(len(passages) + 1, dtype=np.int64)
    np.cumsum([each.passage.num_tokens for each in passages], out=offsets[1:])
    records = np.empty((int(offsets[-1]), codec.record_words), dtype=np.uint16)
    embeddings = np.empty((len(passages), encoder.identity.embedding_dim), dtype=np.float32)
    for batch in encoder.encode(passages):
        token_ids = None  # of no use where a vector stands for several
        if encoder.identity.pool_tokens == 1:
            token_ids = np.concatenate([passages[row].token_ids for row in batch.rows])
        codes = codec.encode(batch.memories, token_ids, batch.offsets, search=search)
        for i, row in enumerate(batch.rows):
            records[offsets[row] : offsets[row + 1]] = codes[
                batch.offsets[i] : batch.offsets[i + 1]
            ]
        embeddings[batch.rows] = batch.embeddings
    return records, embeddings


class PartitionEncoder:
    """Encodes, quantizes and stores partitions of one job: one encoder and one codec a worker.

    Args:
        place: whose spec and pins to follow; the codec is mapped from the store, never sent.
    """

    def __init__(self, place: JobPlace) -> None:
        use_all_cores()
        self._job = place.open()
        spec, pins = self._job.spec(), self._job.pins()
        if pins is None:
            raise AssertionError("a job is pinned before its partitions are encoded")
        self._collection = self._job.collection
        self._metadata_columns = spec.metadata_columns
        self._search = spec.options.codec_search
        self._encoder = cached_encoder(place.encoder, spec.encoder_id)
        self._codec = load_codec(self._collection, pins.codec_id)
        self._dictionary = self._collection.dictionary(pins.dictionary)

    def __call__(self, partition: TokenizedPartition) -> Receipt:
        """Store a partition's shard, then its receipt."""
        receipt = Receipt(
            partition=partition.number,
            entry=self._store(partition) if partition.passages else None,
            bad_records=tuple(partition.bad_records),
        )
        return self._job.put_receipt(receipt)

    def _store(self, partition: TokenizedPartition) -> ShardEntry:
        records, embeddings = encode_passages(
            self._encoder, self._codec, partition.passages, search=self._search
        )
        content = ShardContent(
            passages=[tokenized.passage for tokenized in partition.passages],
            embeddings=embeddings,
            records=records,
            metadata_columns=self._metadata_columns,
            dictionary=self._dictionary,
        )
        return self._collection.put_shard(
            content, f"{self._job.job_id[:16]}-{partition.number:08d}"
        )
