"""Documents of a corpus as token ids, whole, by any tokenizer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from encoder_jobs.options import EncodeOptions
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.ragged import Ragged
from encoder_jobs.scanning import scan_corpus
from memstore.encoders.sources import resolve_source
from memstore.errors import ConfigError, NotFoundError
from memstore.models.checkpoints import TOKENIZER_FILE
from memstore.text import BadRecord, CorpusScan, Partition, load_tokenizer, read_partition

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES = "bytes"
_PIECE_CHARS = 1 << 18
_WHITESPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class TextInputs:
    """Where documents come from.

    Attributes:
        corpus: a file or folder, as `memstore encode` reads it.
        validation: another one, held out; None: some documents of the corpus are.
        held_out: share of the corpus' documents that are held out then; 0: none.
        tokenizer: `"bytes"`, a `tokenizer.json`, or what has one: an encoder's name or folder, or a
            Hugging Face hub id.
        layout, id_field, text_field: as of `memstore.text.open_corpus`.

    Raises:
        ConfigError: if `held_out` is no share.
    """

    corpus: str
    validation: str | None = None
    held_out: float = 0.05
    tokenizer: str = BYTES
    layout: str = "auto"
    id_field: str | None = None
    text_field: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ConfigError(
                f"training option held_out: got {self.held_out}, wanted 0 up to, not with, 1",
                option="held_out",
            )

    def scan(self, corpus: str, display: ProgressDisplay) -> CorpusScan:
        """Read a corpus once, as `scan_corpus`."""
        options = EncodeOptions(
            layout=self.layout, id_field=self.id_field, text_field=self.text_field
        )
        return scan_corpus(corpus, options, display)


class TextTokenizer:
    """A tokenizer that adds no special tokens.

    Args:
        tokenizer: without truncation and padding.
        content: its `tokenizer.json`, which adds none either.
        is_bytes: ids are the bytes of UTF-8.

    Attributes:
        content: as given.
        vocab_size: V; ids are below it.
    """

    def __init__(self, tokenizer: Tokenizer, content: bytes, *, is_bytes: bool = False) -> None:
        self._tokenizer, self.content, self._is_bytes = tokenizer, content, is_bytes
        self.vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def sha256(self) -> str:
        """Digest of the content, hex."""
        return hashlib.sha256(self.content).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text, (T,) int32."""
        if self._is_bytes:  # the library takes a second for a megabyte
            return np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        ids = [
            np.array(self._tokenizer.encode(piece, add_special_tokens=False).ids, np.int32)
            for piece in _pieces(text)
        ]
        return np.concatenate([np.empty(0, np.int32), *ids])


def open_tokenizer(source: str) -> TextTokenizer:
    """Return the tokenizer that `TextInputs.tokenizer` names.

    Raises:
        NotFoundError: if there is none.
        ConfigError: if it is not one.
        MissingDependencyError: if what brings it is not installed.
    """
    if source == BYTES:
        tokenizer = _byte_tokenizer()
        return TextTokenizer(tokenizer, tokenizer.to_str().encode(), is_bytes=True)
    path = Path(source).expanduser()
    try:
        file = path if path.suffix == ".json" else resolve_source(source) / TOKENIZER_FILE
        tokenizer, content = load_tokenizer(file), file.read_bytes()
        if tokenizer.num_special_tokens_to_add(is_pair=False):
            content = json.dumps({**json.loads(content), "post_processor": None}).encode()
        is_bytes = content == _byte_tokenizer().to_str().encode()
        return TextTokenizer(tokenizer, content, is_bytes=is_bytes)
    except NotFoundError as err:
        raise NotFoundError(
            f"tokenizer: got {source!r}, which is not there; wanted {BYTES!r}, a tokenizer.json, "
            "or the folder or Hugging Face id of a model that has one",
            source=source,
        ) from err


def read_documents(
    scanned: CorpusScan, tokenizer: TextTokenizer, display: ProgressDisplay
) -> Ragged:
    """Return the token ids of a corpus' documents, in its order.

    Titles and metadata are left out, as are documents of fewer than two tokens, from which nothing
    can be learnt; `display` says how many, and what could not be read.
    """
    rows: list[np.ndarray] = []
    num_short, bad = 0, []
    for item in _items(scanned.partitions, scanned.num_documents, display):
        if isinstance(item, BadRecord):
            bad.append(item)
            continue
        ids = tokenizer.encode(item)
        if len(ids) < 2:
            num_short += 1
        else:
            rows.append(ids)
    documents = Ragged.of(rows)
    display.say(f"{len(documents):,} documents of {len(documents.values):,} tokens")
    if num_short:
        display.say(f"{num_short:,} documents of fewer than two tokens are left out")
    if bad:
        first = bad[0]
        display.say(
            f"{len(bad):,} records could not be read and are left out; the first: "
            f"{first.file}:{first.record} {first.reason}"
        )
    return documents


def hold_out(documents: Ragged, share: float, seed: int) -> tuple[Ragged, Ragged | None]:
    """Part whole documents into those to train on and those to validate on, at random.

    With a share above 0 at least one is held out, if there are two; one is always left.
    """
    wanted = min(max(1, round(share * len(documents))), len(documents) - 1) if share else 0
    if wanted < 1:
        return documents, None
    order = np.random.default_rng(seed).permutation(len(documents))
    return documents.take(np.sort(order[wanted:])), documents.take(np.sort(order[:wanted]))


def check_documents(documents: Ragged, purpose: str) -> None:
    """Refuse no documents, and those that leave nothing to predict.

    Raises:
        ConfigError: with what they are for.
    """
    shortest = int(documents.lengths.min()) if len(documents) else 0
    if shortest < 2:
        raise ConfigError(
            f"{len(documents)} documents {purpose}, the shortest of {shortest} tokens; wanted one "
            "or more, each of two tokens or more: the first is given, the others are predicted"
        )


def _items(
    partitions: Sequence[Partition], num_documents: int, display: ProgressDisplay
) -> Iterator[str | BadRecord]:
    phase, done = "tokenizing, documents", 0
    for partition in partitions:
        for item in read_partition(partition):
            display.update(phase, done, num_documents)
            done += not isinstance(item, BadRecord)
            yield item if isinstance(item, BadRecord) else item.text
    display.update(phase, done, num_documents)


def _pieces(text: str) -> Iterator[str]:
    """Cut a long text before a whitespace character, where no tokenizer in use joins tokens: the
    library needs hundreds of bytes of memory for each token of a call.
    """
    start = 0
    while start < len(text):
        gap = _WHITESPACE.search(text, start + _PIECE_CHARS)
        end = gap.start() if gap else len(text)
        yield text[start:end]
        start = end


def _byte_tokenizer() -> Tokenizer:
    """Return a tokenizer whose ids are the bytes of UTF-8; it gives every text back as it was."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # The library writes a byte as a character: itself if it prints, else one from U+0100 on.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    printing = [ord(letter) for letter in letters if ord(letter) < 256]
    others = [byte for byte in range(256) if byte not in printing]
    vocabulary = dict(zip(letters, printing + others, strict=True))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
