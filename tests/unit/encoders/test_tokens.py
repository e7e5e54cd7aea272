"""Passages hold the ids that the model was trained to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace

from memstore.encoders import EncoderOptions, load_splitter
from memstore.encoders.checkpoint import open_checkpoint
from memstore.encoders.tokens import load_tokenizer, special_ids
from memstore.errors import ConfigError
from memstore.types import Document

SaveCheckpoint = Callable[..., Path]


@pytest.mark.parametrize(("model_type", "expected"), [("bert", ((2,), (3,))), ("t5", ((), (3,)))])
def test_special_ids_are_found(
    save_checkpoint: SaveCheckpoint, model_type: str, expected: tuple[tuple[int, ...], ...]
) -> None:
    """BERT has one before and one after; T5 only one after."""
    checkpoint = open_checkpoint(str(save_checkpoint(model_type)))

    assert special_ids(load_tokenizer(checkpoint)) == expected


def test_tokenizer_without_special_tokens_has_none() -> None:
    """No post-processor, no special ids."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))

    assert special_ids(tokenizer) == ((), ())


def test_tokenizer_that_drops_letters_is_refused() -> None:
    """Without one real token the special ones cannot be told apart."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.normalizer = Replace(Regex("[a-z]"), "")

    with pytest.raises(ConfigError, match="has no token"):
        special_ids(tokenizer)


def test_padding_and_truncation_of_the_file_are_off(save_checkpoint: SaveCheckpoint) -> None:
    """Published tokenizer files often pad and cut; passages must hold their own tokens only."""
    tokenizer = load_tokenizer(open_checkpoint(str(save_checkpoint("bert"))))

    assert len(tokenizer.encode("the sea").ids) == 4
    assert len(tokenizer.encode("the sea " * 20).ids) == 42


def test_unreadable_tokenizer_is_named(save_checkpoint: SaveCheckpoint) -> None:
    """A file that the tokenizers library refuses is named."""
    folder = save_checkpoint("bert")
    (folder / "tokenizer.json").write_text("{}")

    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        load_tokenizer(open_checkpoint(str(folder)))


def test_splitter_makes_the_tokenizers_own_ids() -> None:
    """A short document becomes one passage with the ids of a plain tokenizer call."""
    tokenizer = load_tokenizer(open_checkpoint(EncoderOptions().source))
    document = Document("d", "Four colours suffice.", title="Maps")

    (tokenized,) = load_splitter(EncoderOptions()).split(document)

    assert tokenized.token_ids.tolist() == tokenizer.encode("Maps Four colours suffice.").ids


def test_windows_of_a_long_document_fit_and_keep_special_tokens() -> None:
    """Every window is at most `window_tokens` long, [CLS] and [SEP] included."""
    document = Document("d", "the wind rises over the cold sea " * 20, title="Maps")

    passages = load_splitter(EncoderOptions(window_tokens=32)).split(document)

    assert len(passages) > 1
    assert max(len(p.token_ids) for p in passages) == 32
    assert {(int(p.token_ids[0]), int(p.token_ids[-1])) for p in passages} == {(101, 102)}


def test_special_tokens_written_in_a_question_are_text(save_checkpoint: SaveCheckpoint) -> None:
    """A user's "[SEP]" must not end the question, as it does not end a passage."""
    tokenizer = load_tokenizer(open_checkpoint(str(save_checkpoint("bert"))))

    assert tokenizer.encode("the [SEP] sea").ids.count(3) == 1
