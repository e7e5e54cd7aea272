"""Tiny checkpoints with random weights, one for each family, saved as a user's would be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from memstore.types import Passage, TokenizedPassage

WORDS = [
    "a",
    "the",
    "of",
    "in",
    "sea",
    "ship",
    "wind",
    "rises",
    "over",
    "cold",
    "water",
    "and",
    "men",
]
BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 140,
    "pad_token_id": 1,
}
T5 = {
    "d_model": 32,
    "num_layers": 3,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "d_kv": 8,
    "d_ff": 48,
    "pad_token_id": 1,
}
DISTILBERT = {
    "dim": 32,
    "n_layers": 3,
    "n_heads": 2,
    "hidden_dim": 48,
    "max_position_embeddings": 140,
    "pad_token_id": 1,
}
# model_type: (the class that a user saves, its config)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", BERT),
    "roberta": ("RobertaModel", BERT),
    "xlm-roberta": ("XLMRobertaModel", BERT),
    "mpnet": ("MPNetModel", BERT),
    "distilbert": ("DistilBertModel", DISTILBERT),
    "t5": ("T5EncoderModel", T5),
    "mt5": ("MT5EncoderModel", T5),
}

SaveCheckpoint = Callable[..., Path]
TokenizePassages = Callable[..., list[TokenizedPassage]]


def _tokenizer(*, is_t5: bool) -> Tokenizer:
    specials = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate(specials + WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="$A [SEP]" if is_t5 else "[CLS] $A [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_padding(length=16)  # as many published files do; must not leak into passages
    tokenizer.enable_truncation(4)
    return tokenizer


@pytest.fixture
def save_checkpoint(tmp_path: Path) -> SaveCheckpoint:
    """Return `save(model_type, name="", architecture="", **config) -> folder`."""

    def save(model_type: str, *, name: str = "", architecture: str = "", **changes: Any) -> Path:
        default, config = FAMILIES[model_type]
        vocab_size = 4 + len(WORDS)
        model_class = getattr(transformers, architecture or default)
        torch.manual_seed(0)
        model = model_class(
            model_class.config_class(**{"vocab_size": vocab_size, **config, **changes})
        )
        folder = tmp_path / (name or model_type)
        model.save_pretrained(folder)
        _tokenizer(is_t5="t5" in model_type).save(str(folder / "tokenizer.json"))
        return folder

    return save


@pytest.fixture
def make_passages() -> TokenizePassages:
    """Return `make(lengths, seed=0)`: passages of random words with ids in the tiny vocabulary."""

    def make(lengths: list[int], *, seed: int = 0) -> list[TokenizedPassage]:
        rng = np.random.default_rng(seed)
        passages = []
        for number, length in enumerate(lengths):
            ids = rng.integers(4, 4 + len(WORDS), length).astype(np.int32)
            text = " ".join(WORDS[i - 4] for i in ids)
            passage = Passage(document_id="d", number=number, text=text, num_tokens=length)
            passages.append(TokenizedPassage(passage, ids))
        return passages

    return make
