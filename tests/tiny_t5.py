"""A tiny T5 with random weights, and questions and passages for a reader that is cut from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from memstore.models.lumen import Lumen
from tests.tiny import WORDS

SPECIALS = ["[PAD]", "[EOS]", "[UNK]"]
DIM = 16
NUM_LAYERS = 6
QUESTIONS = [[5, 9, 14, 1], [7, 8, 20, 11, 30, 6, 1]]
PASSAGES = [[[3, 4, 5, 6, 7, 1], [8, 1], [9, 10, 11, 1]], [[12, 13, 14, 15, 16, 17, 18, 19, 1]]]
LABELS = torch.tensor([[4, 5, 6, 1], [20, 1, -100, -100]])


def t5_config(*, is_gated: bool = False, **changes: Any) -> transformers.T5Config:
    """Return a T5 v1.0 (ReLU, tied output) or v1.1 (gated GELU, output of its own), 16 wide."""
    # A decoder deeper than most live stacks, so that a cache of too few layers would fail.
    shape = {
        "vocab_size": len(SPECIALS) + len(WORDS),
        "d_model": DIM,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": NUM_LAYERS,
        "num_decoder_layers": 4,
        "num_heads": 2,
        "decoder_start_token_id": 0,
        "relative_attention_max_distance": 64,
    }
    variant = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if is_gated else {}
    return transformers.T5Config(**{**shape, **variant, **changes})


def make_t5(*, is_gated: bool = False, seed: int = 3, **changes: Any) -> Any:
    """Return the model with gains of all sizes in its norms, as training leaves them."""
    torch.manual_seed(seed)
    model = transformers.T5ForConditionalGeneration(t5_config(is_gated=is_gated, **changes))
    for name, parameter in model.named_parameters():
        if "layer_norm" in name:
            parameter.data.uniform_(0.5, 1.5)
        elif "relative_attention_bias" in name:
            parameter.data.normal_(std=2)
        elif "EncDecAttention" in name:
            parameter.data.mul_(3)  # so that answers depend on what was read
    if is_gated:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    return model.eval()


def save_t5(folder: Path, *, is_gated: bool = False, seed: int = 3, **changes: Any) -> Path:
    """Save the model of `make_t5` and a tokenizer of words."""
    make_t5(is_gated=is_gated, seed=seed, **changes).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(SPECIALS + WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A [EOS]", special_tokens=[("[EOS]", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def pad(sequences: list[list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids (N, length) and their mask, bool."""
    ids = torch.zeros(len(sequences), length, dtype=torch.int64)
    mask = torch.zeros(len(sequences), length, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
        mask[row, : len(sequence)] = True
    return ids, mask


def make_batch(model: Lumen, passages: list[list[list[int]]] | None = None) -> tuple[Any, ...]:
    """Return ids and memories of the questions, padded at both levels and further than need be."""
    rows = PASSAGES if passages is None else passages
    count = max(len(row) for row in rows)
    filled = [passage for row in rows for passage in [*row, *[[]] * (count - len(row))]]
    ids, mask = pad(filled, 11)
    memories = model.encode_memories(ids, mask)
    shape = len(rows), count, 11
    return *pad(QUESTIONS, 8), memories.reshape(*shape, DIM), mask.reshape(shape)
