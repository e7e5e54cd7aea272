"""Passages as windows of an encoder's own tokens, with their place in the document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memstore.errors import ConfigError, EncoderNotFoundError, MissingDependencyError
from memstore.types import Document, Passage, TokenizedPassage

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATES = ("{title} {text}", "{text}")

MAX_TITLE_FRACTION = 4
"""A title fills at most one part in this many of a window."""

_PIECE_CHARS = 1 << 18
_WHITESPACE = re.compile(r"\s")


class TokenWindowSplitter:
    """Cuts documents into windows of one tokenizer's tokens (a `PassageSplitter`).

    A window is `prefix, title, text, suffix`; only its text moves. Windows start every
    `stride_tokens` tokens and the last one is the first to reach the document's end, so none lies
    within another.

    For an encoder that reads documents whole, windows are spans of one text: prefix and title stand
    before the first, the suffix after the last, and the windows' token ids, one after another, are
    what is read.

    Args:
        tokenizer_file: a `tokenizer.json` of the tokenizers library.
        window_tokens: most tokens of a passage, title and special tokens included.
        stride_tokens: text tokens from one window's start to the next; 0: a window's text, so that
            windows touch and do not overlap.
        template: `"{title} {text}"` puts the title, cut to a quarter of `window_tokens`, before the
            text of every window; `"{text}"` leaves it out.
        prefix_ids, suffix_ids: special tokens around every window, such as CLS and SEP.
        is_document_wide: windows are spans of one text. They do not overlap.
        pool_tokens: so many tokens of a passage share a vector of its memory, for `num_tokens`.

    Raises:
        ConfigError: if a value is out of range, or the file is no tokenizer.
        EncoderNotFoundError: if there is no such file.
        MissingDependencyError: if the tokenizers library is not installed.
    """

    def __init__(
        self,
        tokenizer_file: str | Path,
        *,
        window_tokens: int = 128,
        stride_tokens: int = 0,
        template: str = "{title} {text}",
        prefix_ids: Sequence[int] = (),
        suffix_ids: Sequence[int] = (),
        is_document_wide: bool = False,
        pool_tokens: int = 1,
    ) -> None:
        if template not in TEMPLATES:
            raise ConfigError(f"template: got '{template}', wanted one of {TEMPLATES}")
        self._is_document_wide, self._pool_tokens = is_document_wide, pool_tokens
        self._text_tokens = window_tokens - len(prefix_ids) - len(suffix_ids)
        self._title_tokens = window_tokens // MAX_TITLE_FRACTION if "{title}" in template else 0
        self._stride_tokens = stride_tokens
        self._prefix = np.array(prefix_ids, dtype=np.int32)
        self._suffix = np.array(suffix_ids, dtype=np.int32)
        self._check_sizes(window_tokens)
        self._tokenizer = load_tokenizer(Path(tokenizer_file))

    def _check_sizes(self, window_tokens: int) -> None:
        least_text = self._text_tokens - self._title_tokens
        if least_text < 1:
            raise ConfigError(
                f"window_tokens: got {window_tokens}, of which {window_tokens - least_text} go to"
                " special tokens and the title; nothing is left for text: wanted more"
            )
        if self._is_document_wide and self._stride_tokens:
            raise ConfigError(
                f"stride_tokens: got {self._stride_tokens}, wanted 0: a document is read once, as a"
                " whole, so windows need no overlap to know what is around them"
            )
        if not 0 <= self._stride_tokens <= least_text:
            raise ConfigError(
                f"stride_tokens: got {self._stride_tokens}, wanted 0 to {least_text}: a window of"
                f" {window_tokens} tokens may hold no more text than that, and a longer step would"
                " skip some"
            )

    def split(self, document: Document) -> list[TokenizedPassage]:
        """Return the document's passages in order; none for a document without tokens.

        A passage's text is `document.text[start:end]`, from its first token's first character to
        its last token's last. Time and memory grow with the length of the text.
        """
        ids, spans = self._encode(document.text)
        title = self._encode_title(document.title)
        head = np.concatenate([self._prefix, title])
        passages = []
        for number, (first, last) in enumerate(self._cut(len(ids), len(title))):
            start, end = int(spans[first, 0]), int(spans[last - 1, 1])
            parts = [ids[first:last]]
            if not (self._is_document_wide and first):
                parts.insert(0, head)
            if not (self._is_document_wide and last < len(ids)):
                parts.append(self._suffix)
            token_ids = np.concatenate(parts)  # (T,)
            passage = Passage(
                document_id=document.document_id,
                number=number,
                text=document.text[start:end],
                title=document.title,
                start=start,
                end=end,
                num_tokens=-(-len(token_ids) // self._pool_tokens),
                metadata=document.metadata,
            )
            passages.append(TokenizedPassage(passage, token_ids, is_last=last == len(ids)))
        return passages

    def _cut(self, num_tokens: int, num_title_tokens: int) -> list[tuple[int, int]]:
        """Return first and last of each window's text: its tokens are `ids[first:last]`."""
        if not num_tokens:
            return []
        size = self._text_tokens - num_title_tokens
        if self._is_document_wide:  # the suffix has room in every window, so that it fits the last
            later = self._text_tokens + len(self._prefix)
            return list(pairwise([0, *range(size, num_tokens, later), num_tokens]))
        stride = self._stride_tokens or size
        starts = range(0, max(num_tokens - size, 0) + stride, stride)
        return [(first, min(first + size, num_tokens)) for first in starts]

    def vocabulary(self) -> list[TokenizedPassage]:
        """Return every token of the vocabulary alone between the special tokens, in order of id.

        What a model makes of them is known of every token before any text has been read.
        """
        return [
            TokenizedPassage(  # a document of its own: nothing else is read with it
                Passage(document_id=f"vocabulary-{token_id}", number=0, text=""),
                np.concatenate([self._prefix, np.array([token_id], np.int32), self._suffix]),
            )
            for token_id in range(self.vocabulary_size)
        ]

    @property
    def vocabulary_size(self) -> int:
        """V: token ids are below it."""
        return int(max(self._tokenizer.get_vocab(with_added_tokens=True).values())) + 1

    @property
    def num_prefix_tokens(self) -> int:
        """Special tokens that stand before the text of a token alone."""
        return len(self._prefix)

    @property
    def is_document_wide(self) -> bool:
        """Windows are spans of one text, which is read whole."""
        return self._is_document_wide

    def _encode_title(self, title: str) -> np.ndarray:
        if not self._title_tokens or not title:
            return np.empty(0, dtype=np.int32)
        if self._is_document_wide:  # bytes, or pieces of words, would go on into the text
            title += " "
        return self._encode(title)[0][: self._title_tokens]

    def _encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Return token ids, (T,) int32, and character spans, (T, 2) int64; no special tokens."""
        ids, spans = [np.empty(0, dtype=np.int32)], [np.empty((0, 2), dtype=np.int64)]
        for start, piece in _pieces(text):
            encoding = self._tokenizer.encode(piece, add_special_tokens=False)
            ids.append(np.array(encoding.ids, dtype=np.int32))
            offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            spans.append(offsets + start)
        return np.concatenate(ids), np.concatenate(spans)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Cut a long text before a whitespace character, where no tokenizer in use joins tokens.

    The tokenizers library needs hundreds of bytes of memory for each token of one call: gigabytes
    for a book series.
    """
    start = 0
    while start < len(text):
        gap = _WHITESPACE.search(text, start + _PIECE_CHARS)
        end = gap.start() if gap else len(text)
        yield start, text[start:end]
        start = end


def load_tokenizer(path: Path) -> Tokenizer:
    """Return a tokenizer without truncation and padding.

    Raises:
        ConfigError: if the file is no tokenizer.
        EncoderNotFoundError: if there is no such file.
        MissingDependencyError: if the tokenizers library is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as err:
        raise MissingDependencyError(
            'the tokenizers library is not installed: pip install "memstore[models]"'
        ) from err
    if not path.is_file():
        raise EncoderNotFoundError(f"{path}: no such tokenizer file; name an encoder's folder")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as err:  # the library raises nothing narrower
        raise ConfigError(f"{path}: not a tokenizer.json: {err}") from err
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # "[SEP]" or "</s>" written out is text: it must not end the passage.
    tokenizer.encode_special_tokens = True
    return tokenizer
