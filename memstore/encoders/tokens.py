"""The checkpoint's own tokenizer, run by the `tokenizers` library alone, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memstore import text
from memstore.encoders.checkpoint import Checkpoint
from memstore.encoders.identity import plan_encoder
from memstore.encoders.options import EncoderOptions
from memstore.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from memstore.types import PassageSplitter


def load_splitter(options: EncoderOptions) -> PassageSplitter:
    """Return what cuts documents into windows of this encoder's tokens.

    Raises:
        ConfigError: if the special tokens leave no room in a window; and as `plan_encoder`.
        EncoderNotFoundError, CorruptionError, MissingDependencyError: as `plan_encoder`.
    """
    checkpoint = plan_encoder(options).checkpoint
    prefix_ids, suffix_ids = special_ids(load_tokenizer(checkpoint))
    return text.TokenWindowSplitter(
        checkpoint.tokenizer_file,
        window_tokens=options.window_tokens,
        stride_tokens=options.stride_tokens,
        template=options.template,
        prefix_ids=prefix_ids,
        suffix_ids=suffix_ids,
        is_document_wide=checkpoint.family.is_document_wide,
        pool_tokens=options.pool_tokens,
    )


def load_tokenizer(checkpoint: Checkpoint, *, max_tokens: int | None = None) -> Tokenizer:
    """Return the tokenizer with its file's own padding off, and truncation to `max_tokens` or none.

    Raises:
        ConfigError, MissingDependencyError: as `text.load_tokenizer`.
    """
    tokenizer = text.load_tokenizer(checkpoint.tokenizer_file)
    if max_tokens is not None:
        tokenizer.enable_truncation(max_tokens)
    return tokenizer


def special_ids(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that the tokenizer puts before and after a text: ([CLS],) and ([SEP],).

    Raises:
        ConfigError: if they cannot be told from the text.
    """
    encoding = tokenizer.encode("a")
    mask, ids = encoding.special_tokens_mask, encoding.ids
    if 0 not in mask:
        raise ConfigError(
            "tokenizer.json: the text 'a' has no token; wanted a tokenizer that keeps letters"
        )
    start = mask.index(0)
    end = len(mask) - mask[::-1].index(0)
    return tuple(ids[:start]), tuple(ids[end:])
