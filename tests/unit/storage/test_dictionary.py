"""The zstd dictionary of texts."""

from __future__ import annotations

import hashlib
import random

import zstandard

from memstore.storage import train_dictionary
from memstore.storage.dictionary import dictionary_digest, dictionary_key


def _texts(count: int, num_words: int) -> list[str]:
    """Texts that share phrases with each other, but hardly repeat one."""
    chance = random.Random(0)
    phrases = [f"{chance.random()} {chance.random()}" for _ in range(500)]
    return [" ".join(chance.choices(phrases, k=num_words // 2)) for _ in range(count)]


def test_a_small_sample_gives_no_dictionary() -> None:
    """Few texts, or short ones, have nothing to teach."""
    assert train_dictionary([]) == b""
    assert train_dictionary(_texts(10, 20_000)) == b""
    assert train_dictionary(_texts(300, 3)) == b""
    assert train_dictionary([""] * 1000) == b""


def test_a_dictionary_shortens_texts_like_its_sample() -> None:
    """That is what it is for."""
    texts = _texts(2_000, 40)

    dictionary = train_dictionary(texts)

    plain = zstandard.ZstdCompressor(level=6)
    taught = zstandard.ZstdCompressor(level=6, dict_data=zstandard.ZstdCompressionDict(dictionary))
    text = texts[0].encode()
    assert len(taught.compress(text)) < 0.5 * len(plain.compress(text))


def test_a_dictionary_is_named_by_its_digest() -> None:
    """None has an empty name."""
    assert dictionary_digest(b"x") == hashlib.sha256(b"x").hexdigest()
    assert dictionary_digest(b"") == ""
    assert dictionary_key("ab") == "dicts/ab.zstd"
