"""A large collection for the serving benchmarks: real texts under new ids, made-up memories.

Codes are uniform, so they do not compress and every record is valid; retrieval vectors lie around
cluster centres; passages have about 100 tokens. No encoder is needed to make it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from examples.docstrings import docstrings
from memstore import open_store
from memstore.codec import ProductCodec
from memstore.storage import (
    Collection,
    NewShards,
    Pins,
    ShardContent,
    ShardEntry,
    commit_shards,
    train_dictionary,
)
from memstore.types import Passage

DIM = 384  # of the default encoder, so that its questions fit
CODEBOOK_SIZE = 256
_SUBSPACE_DIM = 8  # as `--codec auto` chooses for it: 48 codes
PASSAGES = {True: 2_000, False: 100_000}  # by `quick`
WHERE = "year >= 2019"  # a fifth of them
COLUMNS = {"year": "int64"}
_YEARS = 2003, 2023
_PASSAGES_A_SHARD = 5_000
_TEXT_CHARACTERS = 400
_TOKENS = 80, 121
_ROWS_A_CENTRE = 100


@dataclass(frozen=True, slots=True)
class Built:
    """A collection on disk.

    Attributes:
        folder: of the store.
        entries: its shards.
        pins: what it is pinned to: a codec, and no encoder.
        num_passages, num_tokens: what it holds.
        memory_dim: D of its memories; retrieval vectors have E = 384.
        questions: (1,000, E) float32 unit vectors around the same centres.
    """

    folder: Path
    entries: list[ShardEntry]
    pins: Pins
    num_passages: int
    num_tokens: int
    memory_dim: int
    questions: np.ndarray

    def settings(self) -> dict[str, Any]:
        """Return the sizes that figures depend on."""
        return {
            "passages": self.num_passages,
            "tokens": self.num_tokens,
            "record_bytes": 2 * self.pins.record_words,
            "dim": self.memory_dim,
            "shards": len(self.entries),
        }


def build(folder: Path, num_passages: int, seed: int, memory_dim: int = DIM) -> Built:
    """Write the collection `default` of a new store, shard by shard, as one version.

    Memories are codes of 8 bits, one for every 8 dimensions.
    """
    rng = np.random.default_rng(seed)
    collection = open_store(folder).collection("default")
    shape = memory_dim // _SUBSPACE_DIM, CODEBOOK_SIZE, _SUBSPACE_DIM
    codec = ProductCodec(rng.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16))
    collection.put_codec(codec.id, dict(codec.files()))
    pins = Pins(
        encoder={},
        codec_id=codec.id,
        memory_dim=memory_dim,
        embedding_dim=DIM,
        record_words=codec.record_words,
    )
    centres = rng.standard_normal((max(1, num_passages // _ROWS_A_CENTRE), DIM), np.float32)
    entries = _put_shards(collection, centres, num_passages, codec.record_words, rng)
    commit_shards(
        collection, NewShards(entries=entries, metadata_columns=COLUMNS), pins, mode="replace"
    )
    num_tokens = sum(entry.num_tokens for entry in entries)
    questions = _around(centres, 1_000, rng)
    return Built(folder, entries, pins, num_passages, num_tokens, memory_dim, questions)


def passage_ids(num_passages: int, count: int, rng: np.random.Generator) -> list[str]:
    """Return the ids of `count` different passages of a collection of `num_passages`."""
    return [f"doc-{row}#0" for row in rng.choice(num_passages, count, replace=False)]


def _put_shards(
    collection: Collection,
    centres: np.ndarray,
    num_passages: int,
    record_words: int,
    rng: np.random.Generator,
) -> list[ShardEntry]:
    texts = _texts()
    dictionary = train_dictionary(texts[:5_000])
    entries = []
    for start in range(0, num_passages, _PASSAGES_A_SHARD):
        count = min(_PASSAGES_A_SHARD, num_passages - start)
        lengths = rng.integers(*_TOKENS, size=count)
        years = rng.integers(*_YEARS, size=count)
        passages = [
            Passage(
                document_id=f"doc-{start + i}",
                number=0,
                text=(text := texts[(start + i) % len(texts)]),
                end=len(text),
                num_tokens=int(lengths[i]),
                metadata={"year": int(years[i])},
            )
            for i in range(count)
        ]
        content = ShardContent(
            passages=passages,
            embeddings=_around(centres, count, rng),
            records=rng.integers(0, 1 << 16, (int(lengths.sum()), record_words), np.uint16),
            metadata_columns=COLUMNS,
            dictionary=dictionary,
        )
        entries.append(collection.put_shard(content, f"bench-{start:08d}"))
    return entries


def _texts() -> list[str]:
    records = islice(docstrings(), 10_000)
    texts = (record["text"] for record in records)
    size = _TEXT_CHARACTERS
    return [text[start : start + size] for text in texts for start in range(0, len(text), size)]


def _around(centres: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return (count, E) float32 unit vectors, each at about cosine 0.7 to a centre."""
    rows = centres[rng.integers(len(centres), size=count)]
    rows = rows + rng.standard_normal(rows.shape, np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
