"""Text to the token ids that a LUMEN model reads and writes, and answers back to text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memstore.encoders import EncoderOptions
from memstore.encoders.tokens import special_ids
from memstore.errors import ConfigError
from memstore.models.lumen import Lumen
from memstore.text import TokenWindowSplitter, load_tokenizer
from memstore.types import Document


class ModelTokens:
    """The tokenizer of a model, with its passages cut as `memstore encode` cuts them.

    Args:
        tokenizer_file: `tokenizer.json`.
        model: says what ids there are, which ends an answer, and which pads.
        encoder: window and template of passages.

    Raises:
        ConfigError: if there is no such file or it is no tokenizer, or no room in a window.

    Attributes:
        pad_id: pads.
    """

    def __init__(self, tokenizer_file: Path, model: Lumen, encoder: EncoderOptions) -> None:
        if not tokenizer_file.is_file():
            raise ConfigError(
                f"{tokenizer_file}: no tokenizer beside the model; put its tokenizer.json there",
                source=tokenizer_file,
            )
        self._tokenizer = load_tokenizer(tokenizer_file)
        prefix_ids, suffix_ids = special_ids(self._tokenizer)
        self._splitter = TokenWindowSplitter(
            tokenizer_file,
            window_tokens=encoder.window_tokens,
            stride_tokens=encoder.stride_tokens,
            template=encoder.template,
            prefix_ids=prefix_ids,
            suffix_ids=suffix_ids,
        )
        config = model.generator.config
        self.pad_id: int = config.pad_token_id
        self._end_id: int = config.eos_token_id
        if self._splitter.vocabulary_size > config.vocab_size:
            raise ConfigError(
                f"{tokenizer_file}: has {self._splitter.vocabulary_size} tokens, the model "
                f"{config.vocab_size}; wanted the tokenizer that it was trained with",
                source=tokenizer_file,
            )

    def question(self, text: str) -> list[int]:
        """Return a question's ids, special tokens included."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def answer(self, text: str) -> list[int]:
        """Return an answer's ids, ended."""
        return [*self._tokenizer.encode(text, add_special_tokens=False).ids, self._end_id]

    def passage(self, title: str, text: str) -> np.ndarray | None:
        """Return the ids of the first window of a passage, (T,) int32; None if it has no token."""
        windows = self._splitter.split(Document(document_id="", text=text, title=title))
        return windows[0].token_ids if windows else None

    def text(self, ids: Sequence[int]) -> str:
        """Return what a model wrote, to its end token, without special tokens."""
        written = list(ids)
        if self._end_id in written:
            written = written[: written.index(self._end_id)]
        kept = [each for each in written if each != self.pad_id]
        decoded: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        return decoded.strip()
