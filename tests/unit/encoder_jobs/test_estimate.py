"""How much work a job is, told before it begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encoder_jobs.estimate import Estimate, estimate_work
from encoder_jobs.prepare import choose_sampled
from encoder_jobs.records import JobPlace
from encoder_jobs.stages import cached_splitter, tokenize
from memstore.encoders import EncoderOptions, read_identity
from memstore.text import Partition

Plan = Callable[..., tuple[JobPlace, tuple[Partition, ...]]]


def test_a_corpus_that_is_looked_at_whole_is_counted_exactly(
    plan: Plan, encoder_options: EncoderOptions
) -> None:
    """Tokens and passages are those that tokenizing makes."""
    _, partitions = plan(10)
    splitter = cached_splitter(encoder_options)
    columns = {"year": "int64", "lang": "string"}
    passages = [p for part in partitions for p in tokenize(part, splitter, columns).passages]

    found = estimate_work(
        partitions, partitions, splitter, read_identity(encoder_options), record_bytes=4
    )

    num_tokens = sum(len(passage.token_ids) for passage in passages)
    assert (found.num_tokens, found.num_passages) == (num_tokens, len(passages))
    text_bytes = sum(partition.num_text_bytes for partition in partitions)
    assert found.num_bytes == int(4 * num_tokens + 64 * len(passages) + text_bytes / 3)


def test_a_long_corpus_is_extrapolated_from_its_sampled_partitions(
    plan: Plan, encoder_options: EncoderOptions
) -> None:
    """Within a tenth, for texts that are alike."""
    _, partitions = plan(120, partition_bytes=300)
    splitter, identity = cached_splitter(encoder_options), read_identity(encoder_options)

    exact = estimate_work(partitions, partitions, splitter, identity, 4)
    found = estimate_work(partitions, choose_sampled(partitions), splitter, identity, 4)

    assert len(partitions) > 64
    assert found.num_tokens == pytest.approx(exact.num_tokens, rel=0.1)


def test_nothing_left_is_no_work(plan: Plan, encoder_options: EncoderOptions) -> None:
    """A job that only has to be committed."""
    splitter, identity = cached_splitter(encoder_options), read_identity(encoder_options)

    assert estimate_work((), (), splitter, identity, 4) == Estimate(0, 0, 0)
