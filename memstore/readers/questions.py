"""Questions to tensors of token ids and answers back to text, by the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from memstore.encoders.huggingface import MAX_QUESTION_TOKENS
from memstore.errors import ConfigError
from memstore.text import load_tokenizer


@dataclass(frozen=True, slots=True)
class QuestionBatch:
    """Questions that are read together.

    Attributes:
        texts: B questions.
        token_ids: of each, special tokens included, one or more.
    """

    texts: Sequence[str]
    token_ids: Sequence[Sequence[int]]

    def padded(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (B, Q) int64 ids and (B, Q) bool, True for a token."""
        ids = pad_sequence([torch.tensor(each) for each in self.token_ids], batch_first=True)
        lengths = torch.tensor([len(each) for each in self.token_ids])
        mask = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
        return ids.to(device), mask.to(device)


class QuestionTokenizer:
    """Reads questions and writes answers.

    Args:
        tokenizer_file: a `tokenizer.json`.
        vocabulary_size: of the model.

    Raises:
        ConfigError: if the file is no tokenizer, or has ids that the model does not know.
        EncoderNotFoundError: if there is no such file.
    """

    def __init__(self, tokenizer_file: Path, vocabulary_size: int) -> None:
        self._tokenizer = load_tokenizer(tokenizer_file)
        last_id = max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        if last_id >= vocabulary_size:
            raise ConfigError(
                f"{tokenizer_file}: has ids up to {last_id}, wanted below {vocabulary_size}, the "
                "model's vocabulary; take the tokenizer that the model was trained with"
            )

    def batches(self, questions: Sequence[str], batch_size: int) -> list[QuestionBatch]:
        """Tokenize all questions and cut them into batches.

        Raises:
            ConfigError: if one is empty, no text, or too long; the first such is named by its
                place.
        """
        if isinstance(questions, str):
            raise ConfigError("questions: got one text, wanted a list of them")
        token_ids = [self._read(number, each) for number, each in enumerate(questions)]
        cuts = [slice(at, at + batch_size) for at in range(0, len(questions), batch_size)]
        return [QuestionBatch(questions[cut], token_ids[cut]) for cut in cuts]

    def write(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer."""
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text.strip()

    def _read(self, number: int, question: str) -> list[int]:
        if not isinstance(question, str):
            raise ConfigError(f"question {number} is a {type(question).__name__}, wanted a text")
        try:
            question.encode()
        except UnicodeEncodeError as err:
            raise ConfigError(f"question {number} is no text: it holds half a character") from err
        ids: list[int] = self._tokenizer.encode(question).ids if question.strip() else []
        if not ids:
            raise ConfigError(f"question {number} is empty; give some words")
        if len(ids) > MAX_QUESTION_TOKENS:
            raise ConfigError(
                f"question {number} has {len(ids)} tokens, wanted at most {MAX_QUESTION_TOKENS}; "
                "shorten it, or store the text that is in it as a passage"
            )
        return ids
