"""A tiny encoder, and jobs planned in a folder of the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encoder_jobs.options import EncodeOptions
from encoder_jobs.records import JobPlace
from encoder_jobs.spec import JobSpec
from memstore.encoders import EncoderOptions, read_identity
from memstore.text import Partition, open_corpus, scan
from tests.tiny import make_records, save_encoder, write_jsonl

Plan = Callable[..., tuple[JobPlace, tuple[Partition, ...]]]


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder; the encoder's memories are 32 wide."""
    return save_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture
def encoder_options(tiny_encoder: Path) -> EncoderOptions:
    """The tiny encoder with windows of 16 tokens."""
    return EncoderOptions(source=str(tiny_encoder), window_tokens=16)


@pytest.fixture
def plan(tmp_path: Path, encoder_options: EncoderOptions) -> Plan:
    """Return `plan(count=10, partition_bytes=1000, **options)`: a job over so many documents, its
    spec stored, with its partitions.
    """

    def make(
        count: int = 10, *, partition_bytes: int = 1000, **options: Any
    ) -> tuple[JobPlace, tuple[Partition, ...]]:
        corpus = write_jsonl(tmp_path / "corpus.jsonl", make_records(count))
        found = scan(open_corpus(corpus), partition_bytes=partition_bytes)
        spec = JobSpec(
            options=EncodeOptions(encoder=encoder_options, **options),
            encoder_id=read_identity(encoder_options).id,
            inputs={file.name: file.sha256 for file in found.files},
            num_partitions=len(found.partitions),
            metadata_columns=found.metadata_columns,
            num_documents=found.num_documents,
            num_text_bytes=found.num_text_bytes,
        )
        place = JobPlace(str(tmp_path / "store"), "default", spec.job_id, encoder_options)
        place.open().put_spec(spec)
        return place, found.partitions

    return make
