"""Running English text as documents to train on and documents held out, as token ids.

Speeches and Brown's texts are tens to hundreds of windows long, reviews some ten; lengths come
mixed, in an order drawn afresh in each epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.running_text import read_text
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_text import BYTES, open_tokenizer
from memstore.types import Document

_HELD_OUT = {"movie_reviews": 24, "brown": 24, "state_union": 12, "inaugural": 8}
"""Whole documents of each source; web text is six files, all of them to train on."""

_NUM_BYTES = 256
_SEED = 0


def read_split(
    folder: Path, *, vocab_size: int, most_tokens: int, tokenizer: Path
) -> tuple[Ragged, Ragged]:
    """Return documents to train on and documents held out, the same ones every time.

    Args:
        folder: of the archives.
        vocab_size: V; 256: bytes.
        most_tokens: a held-out document is read so far.
        tokenizer: file that keeps the tokenizer; made, from what is trained on, if it is not there.

    Raises:
        DataMissingError: if an archive is not there.
    """
    train, held_out = hold_out(read_text(folder))
    source = BYTES
    if vocab_size > _NUM_BYTES:
        source = str(tokenizer)
        if not tokenizer.exists():
            made = tokenizer.with_suffix(".tmp")
            made.write_text(make_tokenizer(train, vocab_size), encoding="utf-8")
            made.rename(tokenizer)
    encode = open_tokenizer(source).encode
    return (
        Ragged.of([encode(text) for text in train]),
        Ragged.of([encode(text)[:most_tokens] for text in held_out]),
    )


def hold_out(documents: Iterable[Document]) -> tuple[list[str], list[str]]:
    """Return the texts to train on, and those of each source that are held out."""
    by_source: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        if len(document.text) >= 2:
            by_source[document.document_id.partition("/")[0]].append(document.text)
    rng = np.random.default_rng(_SEED)
    train, held_out = [], []
    for source, texts in by_source.items():
        order = rng.permutation(len(texts)).tolist()
        count = _HELD_OUT.get(source, 0)
        held_out += [texts[number] for number in sorted(order[:count])]
        train += [texts[number] for number in sorted(order[count:])]
    return train, held_out


def make_tokenizer(texts: Iterable[str], vocab_size: int) -> str:
    """Return the `tokenizer.json` of byte pairs that are frequent in texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    content: str = tokenizer.to_str()
    return content
