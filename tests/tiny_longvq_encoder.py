"""A tiny LongVQ checkpoint with a tokenizer of a few words, as training would leave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from tests.tiny import WORDS
from tests.tiny_longvq import make_model

NUM_LAYERS, DIM = 3, 16
_SPECIALS = ["[UNK]", "[CLS]", "[SEP]"]


def save_longvq(folder: Path, *, has_specials: bool = False, seed: int = 3, **changes: Any) -> Path:
    """Save three blocks, 16 wide, that look both ways; float32.

    With `has_specials` the tokenizer puts [CLS] (1) before a text and [SEP] (2) after it.
    """
    words = {word: number for number, word in enumerate(_SPECIALS + WORDS)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if has_specials:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    shape = {"vocab_size": len(words) + 1, "num_layers": NUM_LAYERS, "is_causal": False}
    model = make_model(seed=seed, dtype=torch.float32, **{**shape, **changes})
    model.save_pretrained(folder, tokenizer.to_str().encode())
    return folder
