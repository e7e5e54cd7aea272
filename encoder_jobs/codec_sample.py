"""Takes a sample of a corpus's memories: passages spread over it, encoded, and the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ml_dtypes
import numpy as np

from encoder_jobs.codec_training import Memories, encode_sample, encode_vocabulary
from encoder_jobs.options import EncodeOptions
from encoder_jobs.prepare import choose_sampled
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.stages import cached_splitter, tokenize, use_all_cores
from memstore.codec.sample import Sample
from memstore.encoders import load_encoder
from memstore.errors import InternalError, InvalidInputError
from memstore.text import Partition, open_corpus, scan
from memstore.types import PassageSplitter, TokenizedPassage


def sample_corpus(corpus: str, options: EncodeOptions, display: ProgressDisplay) -> Sample:
    """Encode about `codec_sample_tokens` tokens of a corpus; the work of `memstore codec sample`.

    Args:
        corpus: a file or folder.
        options: of a job that would encode it.
        display: is told of the progress.

    Returns:
        A sample with all its parts. Vectors are float16, or bfloat16 if they go beyond it.

    Raises:
        ConfigError, InvalidInputError, NotFoundError: as `encode`, before any encoding.
    """
    splitter = cached_splitter(options.encoder)
    opened = open_corpus(
        corpus,
        layout=options.layout,
        id_field=options.id_field,
        text_field=options.text_field,
        title_field=options.title_field,
    )
    total = sum(file.num_bytes for file in opened.files)
    found = scan(
        opened,
        partition_bytes=options.partition_bytes,
        max_bad_fraction=options.max_bad_fraction,
        progress=lambda done: display.update("reading the corpus, bytes", done, total),
    )
    passages = spread_passages(
        splitter,
        choose_sampled(found.partitions),
        options.codec_sample_tokens,
        found.metadata_columns,
    )
    if not passages:
        raise InvalidInputError("the corpus holds no text: not one passage can be made of it")
    use_all_cores()
    encoder = load_encoder(options.encoder)
    memories = None
    for item in encode_sample(encoder, passages):
        if isinstance(item, Memories):
            memories = item
        else:
            display.update(*item)
    if memories is None:
        raise InternalError("the sample was encoded, and no memories came")
    display.say(f"encoding the vocabulary, {splitter.vocabulary_size:,} tokens")
    numbers: dict[str, int] = {}
    documents = [numbers.setdefault(p.passage.document_id, len(numbers)) for p in passages]
    return Sample(
        _narrow(memories.vectors),
        memories.token_ids,
        memories.offsets,
        encode_vocabulary(encoder, splitter),
        np.array(documents, np.int32),
    )


def spread_passages(
    splitter: PassageSplitter,
    partitions: Sequence[Partition],
    num_tokens: int,
    metadata_columns: dict[str, str],
) -> list[TokenizedPassage]:
    """Return passages of about `num_tokens` tokens, as many tokens from each partition."""
    quota = num_tokens / len(partitions)
    chosen: list[TokenizedPassage] = []
    for partition in partitions:
        passages = tokenize(partition, splitter, metadata_columns).passages
        num_found = sum(len(passage.token_ids) for passage in passages)
        num_taken = min(len(passages), math.ceil(len(passages) * quota / max(num_found, 1)))
        chosen.extend(
            passages[int(i)] for i in np.linspace(0, len(passages) - 1, num_taken).round()
        )
    return chosen


def _narrow(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        halves = vectors.astype(np.float16)
    return halves if np.isfinite(halves).all() else vectors.astype(ml_dtypes.bfloat16)
