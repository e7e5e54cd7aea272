"""Token memories of the default encoder on real text: a sample, and some of other documents.

Made once, and kept beside the results: encoding takes about a minute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.codec.sizes import Sizes
from benchmarks.harness import DataMissingError
from benchmarks.running_text import read_text
from examples.docstrings import docstrings
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.types import Document, MemoryEncoder, TokenizedPassage

_CHARACTERS = 20_000  # of a document: a long one must not stand for its whole source
_PASSAGES = 2_000  # encoded at a time
_SEED = 0


@dataclass(frozen=True, slots=True)
class Activations:
    """Memories of T tokens.

    Attributes:
        vectors: (T, D') float16: the sample to train on.
        held_out: (T', D') float32, of other documents.
        token_ids: (T,) int32, of the sample.
        source: where they come from, in words.
    """

    vectors: np.ndarray
    held_out: np.ndarray
    token_ids: np.ndarray
    source: str


def load(data: Path | None, cache: Path, sizes: Sizes) -> Activations:
    """Return the activations, from the cache if they are there.

    Args:
        data: the evaluation data, with the folder `text`; None: the docstrings of the standard
            library are the text.
        cache: a folder for them.
        sizes: how many.

    Raises:
        DataMissingError: if the folder holds no text.
    """
    encoder = load_encoder(EncoderOptions())
    documents = list(_from_archives(data / "text") if data else _from_docstrings())
    documents = [documents[i] for i in np.random.default_rng(_SEED).permutation(len(documents))]
    wanted = sizes.held_out_tokens, sizes.tokens
    name = hashlib.sha256(repr((encoder.identity.id, wanted)).encode())
    for document in documents:
        name.update(document.text.encode())
    file = cache / f"codec-activations-{name.hexdigest()[:16]}.npz"
    if not file.is_file():
        held_out, rest = _split(documents, wanted)
        tokens = [_encode(encoder, part) for part in (held_out, rest)]
        with file.open("wb") as target:
            np.savez(target, held_out=tokens[0][0], vectors=tokens[1][0], token_ids=tokens[1][1])
    with np.load(file) as arrays:
        vectors = arrays["vectors"][: sizes.tokens]
        held_out_vectors = arrays["held_out"][: sizes.held_out_tokens].astype(np.float32)
        ids = arrays["token_ids"][: sizes.tokens]
    text = "the text of --data" if data else "docstrings of the standard library"
    source = f"{encoder.identity.family}, {encoder.identity.num_frozen_layers} of "
    source += f"{encoder.identity.num_layers} layers, {text}"
    return Activations(vectors, held_out_vectors, ids, source)


def _from_archives(folder: Path) -> Iterator[Document]:
    for document in read_text(folder):
        yield replace(document, text=document.text[:_CHARACTERS])


def _from_docstrings() -> Iterator[Document]:
    return (Document(each["id"], each["text"], each["title"]) for each in docstrings())


def _split(
    documents: list[Document], wanted: tuple[int, int]
) -> tuple[list[TokenizedPassage], list[TokenizedPassage]]:
    """Cut documents into passages until there are tokens enough, first for one part, then two."""
    splitter = load_splitter(EncoderOptions())
    pending = iter(documents)
    parts: tuple[list[TokenizedPassage], list[TokenizedPassage]] = ([], [])
    for part, num_tokens in zip(parts, wanted, strict=True):
        count = 0
        while count < num_tokens:
            document = next(pending, None)
            if document is None:
                raise DataMissingError(f"the text has too few tokens, wanted {sum(wanted):,}")
            passages = splitter.split(document)
            part += passages
            count += sum(len(passage.token_ids) for passage in passages)
    return parts


def _encode(
    encoder: MemoryEncoder, passages: list[TokenizedPassage]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the memories (T, D') float16 and ids (T,) of passages, in their order."""
    ids = np.concatenate([passage.token_ids for passage in passages])
    offsets = np.cumsum([0] + [len(passage.token_ids) for passage in passages])
    vectors = np.empty((len(ids), encoder.identity.memory_dim), np.float16)
    for first in range(0, len(passages), _PASSAGES):
        for batch in encoder.encode(passages[first : first + _PASSAGES]):
            for i, row in enumerate(batch.rows):
                memory = batch.memories[batch.offsets[i] : batch.offsets[i + 1]]
                start = offsets[first + row]
                vectors[start : start + len(memory)] = memory
    return vectors, ids
