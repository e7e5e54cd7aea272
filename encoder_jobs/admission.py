"""Whether a collection takes a job, asked before anything is encoded, and whether it holds the job
already.

Does not: publish. The commit asks again, on the version that is the newest by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from encoder_jobs.options import EncodeOptions
from encoder_jobs.records import JobFolder
from encoder_jobs.spec import JobSpec, Receipt
from memstore.codec.recipes import NAMES
from memstore.errors import (
    AlreadyExistsError,
    CodecMismatchError,
    CodecNotFoundError,
    ConfigError,
    EncoderMismatchError,
    NotFoundError,
)
from memstore.storage import Collection, Snapshot, merge_metadata_columns
from memstore.text import Partition, read_partition
from memstore.types import Document, EncoderIdentity

_ID_BATCH = 50_000
_NAMED_DOCUMENTS = 10


def check_codec_name(collection: Collection, name: str) -> None:
    """Refuse a codec that is no name such as `"auto"`, no folder, nor one of the collection's.

    Raises:
        CodecNotFoundError.
    """
    if name in NAMES or Path(name).is_dir():
        return
    try:
        collection.open_codec(name)
    except (NotFoundError, ConfigError) as err:
        raise CodecNotFoundError(
            f"codec {name!r}: no such folder, and collection {collection.name!r} holds no codec of "
            "this id; give 'auto', a codec's folder or its full id",
            collection=collection.name,
            codec_id=name,
        ) from err


def check_encoder(base: Snapshot, options: EncodeOptions, identity: EncoderIdentity) -> None:
    """Refuse an encoder that is not the collection's.

    Raises:
        EncoderMismatchError.
    """
    pinned = base.manifest.encoder_id
    if pinned != identity.id:
        source = base.manifest.encoder.get("options", {}).get(
            "source", "memories that users brought"
        )
        raise EncoderMismatchError(
            f"collection {options.collection!r} is pinned to encoder {pinned[:16] or '(none)'} "
            f"({source}), this is {identity.id[:16]} ({options.encoder.source}); use the same "
            "encoder options, another collection, or --mode replace",
            collection=options.collection,
            wanted=pinned,
            got=identity.id,
        )


def check_job(base: Snapshot, spec: JobSpec, job: JobFolder) -> None:
    """Refuse a codec or metadata columns that do not go with the collection's.

    Raises:
        CodecMismatchError: if the user or an earlier run of this job chose another codec.
        ConfigError: if a column has another type.
    """
    merge_metadata_columns(base.manifest.metadata_columns, spec.metadata_columns)
    pins, pinned = job.pins(), base.manifest.codec_id
    codec_id = pins.codec_id if pins else spec.options.codec
    if codec_id not in ("auto", pinned):
        raise CodecMismatchError(
            f"collection {spec.options.collection!r} is pinned to codec {pinned}, this job to "
            f"{codec_id[:16]}…; give --codec with the collection's full id, another collection, "
            "or --mode replace",
            collection=spec.options.collection,
            wanted=pinned,
            got=codec_id,
        )


def refuse_known_documents(base: Snapshot, partitions: Sequence[Partition]) -> None:
    """Refuse documents that the collection holds.

    Raises:
        AlreadyExistsError: names the first ten.
    """
    known: dict[str, None] = {}
    for batch in _id_batches(partitions):
        rows = base.rows_with("document_id", pa.array(batch, pa.string()))
        known.update(dict.fromkeys(base.column("document_id").take(rows).to_pylist()))
        if len(known) >= _NAMED_DOCUMENTS:
            break
    if known:
        named = ", ".join(map(repr, list(known)[:_NAMED_DOCUMENTS]))
        raise AlreadyExistsError(
            f"collection {base.manifest.collection!r} holds documents of this corpus already, "
            f"among them {named}; use --mode upsert to supersede them",
            collection=base.manifest.collection,
        )


def is_published(base: Snapshot, spec: JobSpec, receipts: dict[int, Receipt]) -> bool:
    """Say whether a version holds what this job would make it hold. What was deleted from its
    shards by hand stays deleted.
    """
    if len(receipts) < spec.num_partitions:
        return False
    mine = {receipt.entry.shard_id for receipt in receipts.values() if receipt.entry}
    published = {shard.entry.shard_id for shard in base.shards}
    if not mine or not mine <= published:
        return False
    if spec.options.mode == "replace":
        return mine == published
    return spec.options.mode == "append" or not _is_superseded(mine, base)


def _is_superseded(shard_ids: set[str], base: Snapshot) -> bool:
    """Say whether a document of these shards has live passages in another shard."""
    entries = [shard.entry for shard in base.shards]
    is_mine = np.repeat(
        [entry.shard_id in shard_ids for entry in entries],
        [entry.num_passages for entry in entries],
    )  # (N,) bool
    documents = base.column("document_id").filter(pa.array(is_mine)).unique()
    return not is_mine[base.rows_with("document_id", documents)].all()


def _id_batches(partitions: Sequence[Partition]) -> Iterator[list[str]]:
    batch: list[str] = []
    for partition in partitions:
        for item in read_partition(partition):
            if isinstance(item, Document):
                batch.append(item.document_id)
                if len(batch) == _ID_BATCH:
                    yield batch
                    batch = []
    if batch:
        yield batch
