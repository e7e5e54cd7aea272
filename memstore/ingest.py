"""Writing memories that users bring themselves: check, quantize, cut into shards, commit."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from memstore.errors import CollectionNotFoundError, ConfigError, ShapeError
from memstore.memories import check_memories
from memstore.storage import (
    WRITE_MODES,
    Collection,
    NewShards,
    Pins,
    ShardContent,
    ShardEntry,
    Snapshot,
    WriteMode,
    check_pins,
    commit_shards,
    fit_metadata_columns,
    merge_metadata_columns,
    train_dictionary,
)
from memstore.text import ColumnTypes, coerce_row
from memstore.types import CommitResult, Passage

if TYPE_CHECKING:
    from memstore.codec import ProductCodec

_SHARD_TOKENS = 250_000
_CODEC_SAMPLE = 200_000
_MEASURED_SAMPLE = 1_000  # of fewer vectors, a held-out tenth says nothing: the plain quantizer


def write_memories(
    collection: Collection,
    passages: Sequence[Passage],
    memories: Sequence[np.ndarray],
    *,
    token_ids: Sequence[np.ndarray] | None,
    embeddings: np.ndarray | None,
    mode: WriteMode,
    codec: ProductCodec | None,
    encoder_id: str,
    load_codec: Callable[[str], ProductCodec],
) -> CommitResult:
    """See `Store.write`; `load_codec` opens the collection's codec by id."""
    if mode not in WRITE_MODES:
        raise ConfigError(f"mode {mode!r}; wanted one of {', '.join(WRITE_MODES)}")
    width = check_memories(passages, memories)
    _check_values(passages, memories)
    vectors = _unit_rows(
        _means(memories) if embeddings is None else np.asarray(embeddings), len(passages)
    )
    base = _base(collection, mode)
    encoder = {"id": encoder_id} if encoder_id else {}
    if base is not None:
        codec = codec or load_codec(base.manifest.codec_id)
        if encoder_id == base.manifest.encoder_id:
            encoder = base.manifest.encoder
    elif codec is None:
        codec = _train(memories)
    pins = Pins(
        encoder=encoder,
        codec_id=codec.id,
        memory_dim=width,
        embedding_dim=vectors.shape[1],
        record_words=codec.record_words,
    )
    if base is not None:
        check_pins(base.manifest, pins)
    collection.put_codec(codec.id, dict(codec.files()))
    types = ColumnTypes()
    for passage in passages:
        types.add(passage.metadata)
    columns = types.result()
    if base is not None:
        columns = fit_metadata_columns(base.manifest.metadata_columns, columns)
        merge_metadata_columns(base.manifest.metadata_columns, columns)
    if codec.needs_token_ids:
        _check_token_ids(memories, token_ids, codec)
    entries = _put_shards(collection, passages, memories, token_ids, vectors, codec, columns)
    return commit_shards(
        collection, NewShards(entries=entries, metadata_columns=columns), pins, mode
    )


def _put_shards(
    collection: Collection,
    passages: Sequence[Passage],
    memories: Sequence[np.ndarray],
    token_ids: Sequence[np.ndarray] | None,
    vectors: np.ndarray,
    codec: ProductCodec,
    columns: dict[str, str],
) -> list[ShardEntry]:
    batch = uuid.uuid4().hex[:16]
    dictionary = train_dictionary([passage.text for passage in passages])
    lengths = np.array([len(memory) for memory in memories])
    owner = np.cumsum(lengths) // _SHARD_TOKENS  # rising: which shard each passage falls into
    entries: list[ShardEntry] = []
    for number in np.unique(owner):
        rows: list[int] = np.flatnonzero(owner == number).tolist()
        content = ShardContent(
            passages=[
                dataclasses.replace(
                    passages[i],
                    num_tokens=int(lengths[i]),
                    metadata=coerce_row(passages[i].metadata, columns),
                )
                for i in rows
            ],
            embeddings=vectors[rows],
            records=codec.encode(
                np.concatenate([memories[i] for i in rows]),
                None if token_ids is None else np.concatenate([token_ids[i] for i in rows]),
                np.concatenate([[0], np.cumsum(lengths[rows])]),
            ),
            metadata_columns=columns,
            dictionary=dictionary,
        )
        entries.append(collection.put_shard(content, f"{batch}-{len(entries):06d}"))
    return entries


def _base(collection: Collection, mode: WriteMode) -> Snapshot | None:
    if mode == "replace":
        return None
    try:
        return collection.snapshot()
    except CollectionNotFoundError:
        return None


def _train(memories: Sequence[np.ndarray]) -> ProductCodec:
    from memstore.codec import ProductCodec
    from memstore.codec.recipes import choose_recipes, train_best
    from memstore.codec.sample import Sample

    sample = np.concatenate(memories).astype(np.float32)
    if len(sample) > _CODEC_SAMPLE:
        rows = np.random.default_rng(0).choice(len(sample), _CODEC_SAMPLE, replace=False)
        sample = sample[np.sort(rows)]
    recipes = choose_recipes("auto", dim=sample.shape[1], num_vectors=len(sample))
    if len(sample) < _MEASURED_SAMPLE:
        return ProductCodec.train(sample, **recipes[0].arguments())
    return train_best(recipes, Sample(sample))[0]


def _check_token_ids(
    memories: Sequence[np.ndarray], token_ids: Sequence[np.ndarray] | None, codec: ProductCodec
) -> None:
    if token_ids is None:
        raise ConfigError(
            f"token_ids: the collection's codec {codec.id[:16]} predicts memories from token ids; "
            "pass those of each passage, one a memory row"
        )
    lengths = [len(memory) for memory in memories], [len(ids) for ids in token_ids]
    if lengths[0] != lengths[1]:
        raise ShapeError("token_ids: wanted as many for each passage as its memory has rows")


def _check_values(passages: Sequence[Passage], memories: Sequence[np.ndarray]) -> None:
    for passage, memory in zip(passages, memories, strict=True):
        if not np.isfinite(memory).all():
            raise ShapeError(
                f"memory of passage {passage.passage_id!r} holds NaN or infinity; wanted finite "
                "numbers"
            )


def _means(memories: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([memory.mean(axis=0, dtype=np.float32) for memory in memories])


def _unit_rows(vectors: np.ndarray, num_rows: int) -> np.ndarray:
    if vectors.ndim != 2 or len(vectors) != num_rows:
        raise ShapeError(f"embeddings of shape {vectors.shape}; wanted ({num_rows}, E)")
    norms = np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        row = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))[0])
        raise ShapeError(f"embedding of row {row} is zero or not finite; wanted a direction")
    unit: np.ndarray = vectors / norms
    return unit
