"""Samples of a corpus's memories: how passages are spread, and how vectors are kept."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from encoder_jobs.codec_sample import _narrow, sample_corpus
from encoder_jobs.options import EncodeOptions
from encoder_jobs.prepare import spread_passages
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.stages import cached_splitter
from memstore.encoders import EncoderOptions
from memstore.errors import InvalidInputError
from memstore.text import open_corpus, read_partition, scan
from memstore.types import Document
from tests.tiny import make_records, write_jsonl


def test_every_partition_gives_as_many_tokens(
    tmp_path: Path, encoder_options: EncoderOptions
) -> None:
    """Up to the last passage that is taken; in the order of the corpus."""
    corpus = write_jsonl(tmp_path / "corpus.jsonl", make_records(40))
    found = scan(open_corpus(corpus), partition_bytes=3000)
    partitions = found.partitions
    assert len(partitions) >= 3

    passages = spread_passages(
        cached_splitter(encoder_options),
        partitions,
        100 * len(partitions),
        found.metadata_columns,
    ).passages

    numbers = [int(passage.passage.document_id.split("-")[1]) for passage in passages]
    assert numbers == sorted(numbers)
    for partition in partitions:
        documents = [d.document_id for d in read_partition(partition) if isinstance(d, Document)]
        taken = [p for p in passages if p.passage.document_id in documents]
        num_tokens = sum(len(passage.token_ids) for passage in taken)
        assert abs(num_tokens - 100) <= 2 * encoder_options.window_tokens


def test_a_corpus_without_text_gives_no_sample(
    tmp_path: Path, encoder_options: EncoderOptions
) -> None:
    """Before the encoder is loaded."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "a", "text": " "}) + "\n")

    with (
        ProgressDisplay(quiet=True) as display,
        pytest.raises(InvalidInputError, match="not one passage can be made of it"),
    ):
        sample_corpus(str(corpus), EncodeOptions(encoder=encoder_options), display)


def test_vectors_are_kept_in_two_bytes() -> None:
    """float16 for its precision, or bfloat16 where float16 does not reach."""
    assert _narrow(np.array([[65_000.0]], np.float32)).dtype == np.float16
    wide = _narrow(np.array([[70_000.0]], np.float32))
    assert wide.dtype == np.dtype(ml_dtypes.bfloat16)
    assert np.isfinite(wide.astype(np.float32)).all()
