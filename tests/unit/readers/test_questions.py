"""Questions are refused in words, or read by the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from memstore.errors import ConfigError, EncoderNotFoundError
from memstore.readers.questions import QuestionTokenizer
from tests.tiny import WORDS
from tests.tiny_t5 import SPECIALS, save_t5

SIZE = len(SPECIALS) + len(WORDS)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of the tiny T5."""
    return save_t5(tmp_path_factory.mktemp("t5")) / "tokenizer.json"


@pytest.fixture
def tokenizer(tokenizer_file: Path) -> QuestionTokenizer:
    """It, opened."""
    return QuestionTokenizer(tokenizer_file, SIZE)


def test_questions_are_padded_together(tokenizer: QuestionTokenizer) -> None:
    """Special tokens are included, and each batch is as wide as its longest question."""
    batches = tokenizer.batches(["the sea", "ship", "over the cold sea"], 2)
    assert [list(batch.texts) for batch in batches] == [["the sea", "ship"], ["over the cold sea"]]
    ids, mask = batches[0].padded(torch.device("cpu"))
    ship = WORDS.index("ship") + len(SPECIALS)
    assert ids[1].tolist() == [ship, 1, 0]
    assert mask.tolist() == [[True] * 3, [True, True, False]]


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (["the sea", ""], "question 1 is empty"),
        ([" \n"], "question 0 is empty"),
        (["the sea", "a \ud800"], "question 1 is no text"),
        (["sea " * 512], "question 0 has 513 tokens, wanted at most 512"),
        ("the sea", "got one text, wanted a list"),
        (["the sea", None], "question 1 is a NoneType, wanted a text"),
    ],
    ids=["empty", "blank", "surrogate", "long", "no list", "none"],
)
def test_bad_questions_are_refused(
    tokenizer: QuestionTokenizer, questions: Sequence[str], message: str
) -> None:
    """By place, without their text."""
    with pytest.raises(ConfigError, match=message):
        tokenizer.batches(questions, 2)


def test_the_longest_question_is_read(tokenizer: QuestionTokenizer) -> None:
    """512 tokens with the end token."""
    (batch,) = tokenizer.batches(["sea " * 511], 2)
    assert len(batch.token_ids[0]) == 512


def test_answers_are_written_without_special_tokens(tokenizer: QuestionTokenizer) -> None:
    """Words, parted as the tokenizer parts them; nothing for nothing."""
    ids = [WORDS.index(word) + len(SPECIALS) for word in ("cold", "water")]
    assert tokenizer.write(ids) == "cold water"
    assert tokenizer.write([]) == ""


def test_the_tokenizer_must_be_the_models(tokenizer_file: Path, tmp_path: Path) -> None:
    """Ids beyond the model's vocabulary, no file, and a file that is none."""
    with pytest.raises(ConfigError, match=f"has ids up to {SIZE - 1}, wanted below {SIZE - 1}"):
        QuestionTokenizer(tokenizer_file, SIZE - 1)
    with pytest.raises(EncoderNotFoundError, match="no such tokenizer"):
        QuestionTokenizer(tmp_path / "tokenizer.json", SIZE)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"not a tokenizer\.json"):
        QuestionTokenizer(tmp_path / "tokenizer.json", SIZE)
