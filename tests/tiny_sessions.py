"""Tiny session models: a MELODI model of random weights that reads the words of `tests.tiny`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from memstore.models.melodi import Melodi
from memstore.sessions import SessionModel
from tests.tiny import WORDS
from tests.tiny_melodi import make_model

WINDOW = 8
QUEUE_WINDOWS = 4
UNKNOWN = "[UNK]"


def save_model(folder: Path, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Save a checkpoint with its tokenizer, a token a word."""
    _model(dtype, changes).save_pretrained(folder, _tokenizer())
    return folder


def make_session_model(
    folder: Path, *, dtype: torch.dtype = torch.float64, **changes: Any
) -> SessionModel:
    """Return a model; `folder` takes its tokenizer."""
    file = folder / "tokenizer.json"
    file.write_bytes(_tokenizer())
    return SessionModel(_model(dtype, changes), file)


def make_text(num_words: int, *, seed: int = 0) -> str:
    """Return so many words, which are as many tokens, with two spaces between some."""
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) + rng.choice([" ", "  "]) for _ in range(num_words))


def _model(dtype: torch.dtype, changes: dict[str, Any]) -> Melodi:
    sizes = {"vocab_size": len(WORDS) + 1, "window": WINDOW, "queue_windows": QUEUE_WINDOWS}
    return make_model(dtype=dtype, **{**sizes, **changes})


def _tokenizer() -> bytes:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    vocabulary = {word: number for number, word in enumerate([UNKNOWN, *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Whitespace()
    return str(tokenizer.to_str()).encode()
