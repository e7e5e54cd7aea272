"""Takes a sample of a corpus's memories: passages spread over it, encoded, and the vocabulary."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np

from encoder_jobs.codec_training import encode_sample, encode_vocabulary
from encoder_jobs.options import EncodeOptions
from encoder_jobs.prepare import choose_sampled, spread_passages
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.scanning import scan_corpus
from encoder_jobs.stages import cached_splitter, use_all_cores
from memstore.codec.sample import Sample
from memstore.encoders import load_encoder
from memstore.errors import InvalidInputError


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
    found = scan_corpus(corpus, options, display)
    spread = spread_passages(
        splitter,
        choose_sampled(found.partitions),
        options.codec_sample_tokens,
        found.metadata_columns,
    )
    if not spread.sampled:
        raise InvalidInputError("the corpus holds no text: not one passage can be made of it")
    use_all_cores()
    encoder = load_encoder(options.encoder)
    sample = display.follow(encode_sample(encoder, spread.passages, spread.sampled))
    vocabulary = None
    if sample.token_ids is not None:
        vocabulary = display.follow(encode_vocabulary(encoder, splitter))
    numbers: dict[str, int] = {}
    names = [spread.passages[row].passage.document_id for row in spread.sampled]
    documents = [numbers.setdefault(name, len(numbers)) for name in names]
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
