"""A tiny reader and a user's own source of memories, which lie in a list."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from memstore.codec import ProductCodec
from memstore.errors import PassageNotFoundError
from memstore.models.lumen import Lumen
from memstore.types import Codec, FetchResult, Hit, Memory, QueryResult
from tests.tiny_t5 import DIM, save_t5

ENCODER_ID, CODEC_ID = "e" * 64, "c" * 64
# The tiny T5's decoder has no bucket for distances beyond 16 tokens; answers here are longer.
SHAPE: dict[str, Any] = {"relative_attention_num_buckets": 16}


def make_codec(*, dim: int = DIM, **stages: Any) -> ProductCodec:
    """Train a small codec on made-up vectors."""
    vectors = np.random.default_rng(0).standard_normal((640, dim)).astype(np.float32)
    return ProductCodec.train(vectors, num_subspaces=4, codebook_size=16, **stages)


def make_memory(number: int, num_tokens: int, codec: Codec) -> Memory:
    """Make a memory of random codes."""
    rng = np.random.default_rng([number, num_tokens])
    vectors = rng.standard_normal((num_tokens, codec.dim)).astype(np.float32)
    return Memory(f"doc#{number}", codec.encode(vectors), codec)


class ListSource:
    """Answers every question with the first `top_k` of its memories.

    `questions` says what it was asked, `asked` when; a question in `failing` raises.
    """

    encoder_id = ENCODER_ID
    codec_id = CODEC_ID

    def __init__(self, memories: Sequence[Memory], failing: Sequence[str] = ()) -> None:
        self.memories = memories
        self.failing = failing
        self.questions: list[str | np.ndarray] = []
        self.asked: defaultdict[str, threading.Event] = defaultdict(threading.Event)

    def query(
        self,
        query: str | np.ndarray,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
    ) -> QueryResult:
        """Find the first memories."""
        self.questions.append(query)
        self.asked[str(query)].set()
        if query in self.failing:
            raise PassageNotFoundError("nothing like it")
        found = self.memories[:top_k]
        return QueryResult(
            collection=collection,
            version=1,
            hits=tuple(_hit(number, memory) for number, memory in enumerate(found)),
            encoder_id=self.encoder_id,
            codec_id=self.codec_id,
            memories=tuple(found),
        )

    def fetch(self, passage_ids: Sequence[str], *, collection: str = "default") -> FetchResult:
        """Not what a reader needs."""
        raise PassageNotFoundError("nothing is fetched by id here")


def save_reader(folder: Path, **pins: Any) -> Path:
    """Save a LUMEN model with random weights, its tokenizer and its pins."""
    t5 = save_t5(folder / "t5", **SHAPE)
    model = Lumen.from_pretrained(t5, live_fraction="1/2")
    model.config = replace(model.config, **pins)
    model.save_pretrained(folder / "reader", t5 / "tokenizer.json")
    return folder / "reader"


def _hit(number: int, memory: Memory) -> Hit:
    return Hit(
        document_id="doc",
        number=number,
        text=f"text {number}",
        title="title",
        start=10 * number,
        end=10 * number + 9,
        num_tokens=memory.num_tokens,
        metadata={"year": 2000 + number},
        score=1 / (1 + number),
    )
