"""Manifests and shard lists as values."""

from __future__ import annotations

import dataclasses
import json

import pytest

from memstore.errors import CorruptionError, FormatVersionError
from memstore.storage import Manifest, ShardEntry
from memstore.storage.manifest import (
    FORMAT_VERSION,
    ShardListRef,
    check_digest,
    pack_shard_list,
    unpack_shard_list,
    version_key,
)

ENTRY = ShardEntry(
    shard_id="name-0123",
    num_bytes=1000,
    sha256="a" * 64,
    head_sha256="b" * 64,
    codes_offset=512,
    codes_bytes=64,
    num_passages=3,
    num_tokens=8,
    dictionary="",
)
MANIFEST = Manifest(
    collection="default",
    version=3,
    parent=2,
    commit_id="c" * 32,
    created_at="2030-01-01T00:00:00.000000+00:00",
    operation="append",
    job_id="",
    encoder={"id": "e" * 64, "options": {"source": "x"}},
    codec_id="d" * 64,
    memory_dim=16,
    embedding_dim=8,
    record_words=2,
    metadata_columns={"year": "int64"},
    shard_lists=(
        ShardListRef(digest="1" * 64, num_shards=1, num_passages=3, num_tokens=8, num_bytes=1000),
        ShardListRef(
            digest="2" * 64,
            num_shards=2,
            num_passages=5,
            num_tokens=9,
            num_bytes=2000,
            deletes="3" * 64,
            num_deleted=2,
        ),
    ),
)


def test_a_manifest_survives_json() -> None:
    """Field by field, shard lists included."""
    value = json.loads(json.dumps(MANIFEST.to_dict()))

    assert Manifest.from_dict(value, "name") == MANIFEST


def test_a_manifest_counts_its_rows() -> None:
    """All rows, and those that are deleted."""
    assert (MANIFEST.num_rows, MANIFEST.num_deleted) == (8, 2)


def test_a_manifest_knows_its_encoder() -> None:
    """The id of the encoder; empty when users brought the memories."""
    assert MANIFEST.encoder_id == "e" * 64
    assert dataclasses.replace(MANIFEST, encoder={}).encoder_id == ""


@pytest.mark.parametrize("found", [FORMAT_VERSION + 1, None, "1"])
def test_a_manifest_of_another_format_is_refused(found: object) -> None:
    """A newer memstore may have written what this one would misread."""
    with pytest.raises(FormatVersionError, match=r"name: format version .* upgrade"):
        Manifest.from_dict({**MANIFEST.to_dict(), "format_version": found}, "name")


def test_version_keys_sort_as_their_numbers() -> None:
    """Twenty digits, so that a listing is in order."""
    assert version_key(42) == "versions/00000000000000000042.json"
    assert version_key(9) < version_key(10)


def test_a_shard_entry_survives_json() -> None:
    """A job's receipt gives back the entry that went in."""
    assert ShardEntry.from_dict(json.loads(json.dumps(ENTRY.to_dict()))) == ENTRY
    assert ENTRY.key == "shards/name-0123.arrow"


def test_a_shard_list_survives_packing() -> None:
    """In order, and summed up in its reference."""
    entries = [ENTRY, dataclasses.replace(ENTRY, shard_id="other", num_passages=4)]

    ref, data = pack_shard_list(entries)

    assert unpack_shard_list(ref, data) == entries
    assert (ref.num_shards, ref.num_passages, ref.num_tokens, ref.num_bytes) == (2, 7, 16, 2000)
    assert ref.key == f"lists/{ref.digest}.json.zst"


def test_equal_shard_lists_are_equal_bytes() -> None:
    """A commit that is built again stores nothing new."""
    assert pack_shard_list([ENTRY]) == pack_shard_list([ENTRY])


def test_a_damaged_shard_list_is_refused() -> None:
    """Before it is decompressed."""
    ref, data = pack_shard_list([ENTRY])

    with pytest.raises(CorruptionError, match=ref.key):
        unpack_shard_list(ref, data[:-1])


def test_a_digest_is_checked() -> None:
    """The error says which digest was found and which was expected."""
    with pytest.raises(CorruptionError, match="name: sha256 2d711642b726b044…, expected 0000"):
        check_digest(b"x", "0" * 64, "name")
