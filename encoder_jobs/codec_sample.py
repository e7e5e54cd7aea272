"""Takes a sample of a corpus's memories: passages spread over it, encoded, and the vocabulary."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np

from encoder_jobs.codec_training import Step, encode_sample, encode_vocabulary
from encoder_jobs.options import EncodeOptions
from encoder_jobs.prepare import choose_sampled, spread_passages
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.stages import cached_splitter, use_all_cores
from memstore.codec.sample import Sample
from memstore.encoders import load_encoder
from memstore.errors import InvalidInputError
from memstore.text import open_corpus, scan


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
    ).passages
    if not passages:
        raise InvalidInputError("the corpus holds no text: not one passage can be made of it")
    use_all_cores()
    encoder = load_encoder(options.encoder)
    for item in encode_sample(encoder, passages):
        if isinstance(item, Sample):
            sample = item
        else:
            display.update(*item)
    for part in encode_vocabulary(encoder, splitter):
        if isinstance(part, Step):
            display.update(*part)
        else:
            vocabulary = part
    numbers: dict[str, int] = {}
    documents = [numbers.setdefault(p.passage.document_id, len(numbers)) for p in passages]
    return replace(
        sample,
        vectors=_narrow(sample.vectors),
        vocabulary=vocabulary,
        documents=np.array(documents, np.int32),
    )


def _narrow(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        halves = vectors.astype(np.float16)
    return halves if np.isfinite(halves).all() else vectors.astype(ml_dtypes.bfloat16)
