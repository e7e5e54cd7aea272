"""What a version of a collection says of itself: manifest, shard lists, shard entries.

A manifest stays small: it names shard lists by digest, a list names shards, and one deletion bitmap
a list says which of its rows are gone. Rows are numbered through the lists in order, so a row keeps
its number until a replace. `docs/format.md` has the bytes.

Does not: read or write objects.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import zstandard

from memstore.errors import CorruptionError, FormatVersionError
from memstore.types import canonical_json

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """A shard as its manifest and its job's receipt know it.

    Attributes:
        shard_id: names the object `shards/<shard_id>.arrow`.
        num_bytes, sha256: length and digest of the whole object.
        head_sha256: digest of everything but the codes: what stands before them and after them.
        codes_offset, codes_bytes: where the codes lie in the object.
        dictionary: digest of the zstd dictionary of the text column; empty: none.
    """

    shard_id: str
    num_bytes: int
    sha256: str
    head_sha256: str
    codes_offset: int
    codes_bytes: int
    num_passages: int
    num_tokens: int
    dictionary: str

    @property
    def key(self) -> str:
        """Object key below the collection."""
        return f"shards/{self.shard_id}.arrow"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> ShardEntry:
        """Build from the JSON values of `to_dict`."""
        return cls(**value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardListRef:
    """A shard list as a manifest names it, with the deletions of this version."""

    digest: str
    num_shards: int
    num_passages: int
    num_tokens: int
    num_bytes: int
    deletes: str = ""
    num_deleted: int = 0

    @property
    def key(self) -> str:
        """Object key of the list below the collection."""
        return f"lists/{self.digest}.json.zst"

    @property
    def deletes_key(self) -> str:
        """Object key of the deletion bitmap below the collection."""
        return f"deletes/{self.deletes}.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of a collection. Its create-only `put` is the commit.

    `encoder` is `{"id", "identity", "options"}`, empty for a collection of vectors that users
    brought themselves.
    """

    collection: str
    version: int
    parent: int
    commit_id: str
    created_at: str
    operation: str
    job_id: str
    encoder: dict[str, Any]
    codec_id: str
    memory_dim: int
    embedding_dim: int
    record_words: int
    metadata_columns: dict[str, str] = field(default_factory=dict)
    shard_lists: tuple[ShardListRef, ...] = ()

    @property
    def encoder_id(self) -> str:
        """Digest of the encoder's identity; empty if there is none."""
        return str(self.encoder.get("id", ""))

    @property
    def num_rows(self) -> int:
        """Rows of all shards, deleted ones included."""
        return sum(ref.num_passages for ref in self.shard_lists)

    @property
    def num_deleted(self) -> int:
        """Rows that are deleted at this version."""
        return sum(ref.num_deleted for ref in self.shard_lists)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON values."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, value: dict[str, Any], name: str) -> Manifest:
        """Build from the JSON values of `to_dict`.

        Raises:
            FormatVersionError: if a newer memstore wrote it.
        """
        found = value.pop("format_version", None)
        if found != FORMAT_VERSION:
            raise FormatVersionError(
                f"{name}: format version {found}, this memstore reads {FORMAT_VERSION}: "
                "upgrade memstore"
            )
        refs = tuple(ShardListRef(**ref) for ref in value.pop("shard_lists"))
        return cls(shard_lists=refs, **value)


def version_key(version: int) -> str:
    """Object key of a version below its collection."""
    return f"versions/{version:020d}.json"


def pack_shard_list(entries: list[ShardEntry]) -> tuple[ShardListRef, bytes]:
    """Return the reference to a new list and the bytes to store under its key."""
    data = zstandard.ZstdCompressor(level=9).compress(
        canonical_json([entry.to_dict() for entry in entries])
    )
    ref = ShardListRef(
        digest=hashlib.sha256(data).hexdigest(),
        num_shards=len(entries),
        num_passages=sum(entry.num_passages for entry in entries),
        num_tokens=sum(entry.num_tokens for entry in entries),
        num_bytes=sum(entry.num_bytes for entry in entries),
    )
    return ref, data


def unpack_shard_list(ref: ShardListRef, data: bytes) -> list[ShardEntry]:
    """Return a list's entries from its stored bytes, which are checked first.

    Raises:
        CorruptionError: if the bytes are not those that the manifest names.
    """
    check_digest(data, ref.digest, ref.key)
    rows = json.loads(zstandard.ZstdDecompressor().decompress(data))
    return [ShardEntry.from_dict(row) for row in rows]


def check_digest(data: bytes | memoryview, digest: str, name: str) -> None:
    """Raise `CorruptionError` unless the bytes have this sha256."""
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise CorruptionError(
            f"{name}: sha256 {found[:16]}…, expected {digest[:16]}…; restore it from a copy",
            object=name,
        )
