"""What the servers of these tests serve: made passages and memories, and an encoder of words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from memstore.types import EncodedBatch, EncoderIdentity, Passage, TokenizedPassage

DIM = 16
NUM_PASSAGES = 40


class WordEncoder:
    """Embeds a question as the sum of fixed random directions of its words."""

    identity = EncoderIdentity(
        family="words",
        weights_sha256="0" * 64,
        config_sha256="0" * 64,
        tokenizer_sha256="0" * 64,
        num_layers=1,
        num_frozen_layers=1,
        memory_dim=DIM,
        embedding_dim=DIM,
        window_tokens=8,
        stride_tokens=8,
        template="{text}",
        special_tokens="kept",
        pooling="mean",
    )

    def encode(self, passages: Sequence[TokenizedPassage]) -> Iterator[EncodedBatch]:
        """Passages come with memories of their own in these tests."""
        raise NotImplementedError

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(len(texts), DIM) float32, unit length."""
        vectors = np.stack([sum(self._word(word) for word in text.split()) for text in texts])
        unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit.astype(np.float32)

    def question(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The retrieval vector, and a memory of a row a word."""
        memory = np.stack([self._word(word) for word in text.split()]).astype(np.float32)
        return self.embed([text])[0], memory

    def _word(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
        return np.random.default_rng(seed).standard_normal(DIM)


def make_passages(count: int, *, prefix: str = "doc") -> tuple[list[Passage], list[np.ndarray]]:
    """Return passages and (3..9, DIM) memories that differ from each other."""
    rng = np.random.default_rng(count)
    passages = [
        Passage(
            document_id=f"{prefix}-{i}",
            number=i % 3,
            title=f"title {i}",
            text=f"word{i} common ünïcode",
            start=i,
            end=i + 20,
            metadata={
                "year": (1 << 60) + i,
                "lang": "en" if i % 2 else "de",
                "w": i / 7,
                "ok": True,
            },
        )
        for i in range(count)
    ]
    memories = [rng.standard_normal((3 + i % 7, DIM), dtype=np.float32) for i in range(count)]
    return passages, memories
