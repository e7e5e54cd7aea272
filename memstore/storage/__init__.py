"""Collections as immutable objects and atomic versions: shards, manifests, commits, deletes,
verification, collection of garbage. The bytes are described in docs/format.md.
"""

from memstore.storage.collection import Collection, check_collection_name, list_collections
from memstore.storage.commit import (
    WRITE_MODES,
    NewShards,
    Pins,
    WriteMode,
    check_pins,
    commit_delete,
    commit_shards,
)
from memstore.storage.dictionary import train_dictionary
from memstore.storage.maintenance import GcReport, VerifyReport, gc, verify
from memstore.storage.manifest import Manifest, ShardEntry
from memstore.storage.objects import ObjectReader, ObjectStore, PosixStore
from memstore.storage.schema import fit_metadata_columns, merge_metadata_columns
from memstore.storage.sealed import seal, unseal
from memstore.storage.shard import ShardContent
from memstore.storage.snapshot import Snapshot

__all__ = [
    "WRITE_MODES",
    "Collection",
    "GcReport",
    "Manifest",
    "NewShards",
    "ObjectReader",
    "ObjectStore",
    "Pins",
    "PosixStore",
    "ShardContent",
    "ShardEntry",
    "Snapshot",
    "VerifyReport",
    "WriteMode",
    "check_collection_name",
    "check_pins",
    "commit_delete",
    "commit_shards",
    "fit_metadata_columns",
    "gc",
    "list_collections",
    "merge_metadata_columns",
    "seal",
    "train_dictionary",
    "unseal",
    "verify",
]
