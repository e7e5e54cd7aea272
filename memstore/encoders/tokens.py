"""The checkpoint's own tokenizer, run by the `tokenizers` library alone, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memstore.encoders.checkpoint import Checkpoint
from memstore.encoders.identity import plan_encoder
from memstore.encoders.options import EncoderOptions
from memstore.errors import ConfigError, CorruptionError, MissingDependencyError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from memstore.types import PassageSplitter


def load_splitter(options: EncoderOptions) -> PassageSplitter:
    """Return what cuts documents into windows of this encoder's tokens.

    Raises:
        ConfigError: if the special tokens leave no room in a window; and as `plan_encoder`.
        EncoderNotFoundError, CorruptionError, MissingDependencyError: as `plan_encoder`.
    """
    from memstore.text.windows import TokenWindowSplitter

    checkpoint = plan_encoder(options).checkpoint
    prefix_ids, suffix_ids = special_ids(load_tokenizer(checkpoint))
    return TokenWindowSplitter(
        checkpoint.tokenizer_file,
        window_tokens=options.window_tokens,
        stride_tokens=options.stride_tokens,
        template=options.template,
        prefix_ids=prefix_ids,
        suffix_ids=suffix_ids,
    )


def load_tokenizer(checkpoint: Checkpoint, *, max_tokens: int | None = None) -> Tokenizer:
    """Return the tokenizer with its file's own padding off, and truncation to `max_tokens` or none.

    Raises:
        CorruptionError: if `tokenizer.json` does not parse.
        MissingDependencyError: if the `tokenizers` package is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as err:
        raise MissingDependencyError(
            'package tokenizers is not installed; run "pip install memstore[models]"',
            extra="models",
        ) from err
    path = checkpoint.tokenizer_file
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as err:  # the library raises no class of its own
        raise CorruptionError(
            f"{path}: the tokenizers library cannot read it; download the checkpoint again",
            object=path,
        ) from err
    tokenizer.no_padding()
    # "[SEP]" or "</s>" written out in a question is text, as it is in a passage.
    tokenizer.encode_special_tokens = True
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
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
