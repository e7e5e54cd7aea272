"""A tiny encoder and corpora in its few words, for tests of jobs that are not about the model."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from memstore import open_store

WORDS = [
    "a", "the", "of", "in", "and", "over", "sea", "ship", "wind", "rises", "cold", "water", "men",
    "storm", "harbour", "night", "lamp", "rope", "sail", "north", "ice", "whale", "salt", "shore",
    "tide", "anchor", "mast", "deck", "fog", "bell", "star",
]  # fmt: skip
_SPECIALS = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]


def save_encoder(folder: Path, *, seed: int = 0, vocab_size: int | None = None) -> Path:
    """Save a BERT of three layers, 32 wide, with random weights, as a user's checkpoint would be.

    `vocab_size` smaller than the tokenizer's makes a checkpoint that fails on some words.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    vocabulary = {word: number for number, word in enumerate(_SPECIALS + WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=vocab_size or len(vocabulary),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=140,
        pad_token_id=1,
    )
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def make_records(count: int, *, prefix: str = "doc", seed: int = 0) -> list[dict[str, Any]]:
    """Return records of 5 to 120 words each, with an id, a title and two metadata fields."""
    rng = random.Random(f"{prefix}{seed}")
    return [
        {
            "id": f"{prefix}-{number}",
            "title": rng.choice(WORDS),
            "text": " ".join(rng.choices(WORDS, k=rng.randint(5, 120))),
            "year": 2000 + number,
            "lang": "de" if number % 2 else "en",
        }
        for number in range(count)
    ]


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records as JSON lines."""
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text(lines, encoding="utf-8")
    return path


def published(store: Path, collection: str = "default") -> Mapping[str, str]:
    """Return what the newest version of a collection holds: shard id → sha256 of the shard, and
    passage id → digest of the passage with its codes.

    Everything is read from the files and checked on the way; a passage that is there twice fails.
    """
    snapshot = open_store(store, create=False).collection(collection).snapshot()
    held: dict[str, str] = {}
    for shard in snapshot.shards:
        shard.verify()
        held[f"shard {shard.entry.shard_id}"] = shard.entry.sha256
    for row in range(snapshot.num_rows):
        if not snapshot.live[row]:
            continue
        passage = snapshot.passage(row)
        digest = hashlib.sha256(repr(passage).encode())
        digest.update(snapshot.records(row).tobytes())
        digest.update(snapshot.embedding_rows(pa.array([row]).to_numpy()).tobytes())
        if passage.passage_id in held:
            raise AssertionError(f"passage {passage.passage_id} is there twice")
        held[passage.passage_id] = digest.hexdigest()
    return held
