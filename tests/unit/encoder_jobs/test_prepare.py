"""What a job decides before its first shard."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoder_jobs.prepare import Speed, Step, choose_sampled, prepare_job
from encoder_jobs.records import JobPlace
from encoder_jobs.spec import JobPins
from memstore import ProductCodec
from memstore.errors import CodecNotFoundError
from memstore.text import Partition
from memstore.views import load_codec

Plan = Callable[..., tuple[JobPlace, tuple[Partition, ...]]]


def _prepare(place: JobPlace, sampled: Sequence[Partition]) -> list[Step | Speed]:
    return list(prepare_job(place, sampled))


def _sampled_tokens(steps: Sequence[Step | Speed]) -> int:
    """How many tokens were encoded for the codec."""
    return max(
        step.total for step in steps if isinstance(step, Step) and step.what.endswith("tokens")
    )


def _pins(place: JobPlace) -> JobPins:
    pins = place.open().pins()
    assert pins is not None
    return pins


def _put_codec(place: JobPlace) -> ProductCodec:
    vectors = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)
    codec = ProductCodec.train(vectors, num_subspaces=4, codebook_size=4)
    place.open().collection.put_codec(codec.id, dict(codec.files()))
    return codec


def test_a_sample_is_spread_over_the_whole_input(plan: Plan) -> None:
    """At most 32 partitions, the first and the last among them; all of a small input."""
    _, partitions = plan(60, partition_bytes=300)
    few = partitions[:5]

    chosen = [partition.index for partition in choose_sampled(partitions)]

    assert len(partitions) > 40
    assert len(chosen) == len(set(chosen)) == 32
    assert (chosen[0], chosen[-1]) == (0, len(partitions) - 1)
    assert max(b - a for a, b in itertools.pairwise(chosen)) <= 2
    assert choose_sampled(few) == list(few)


def test_a_codec_is_trained_on_the_whole_of_a_small_corpus(plan: Plan) -> None:
    """The codec is stored and pinned with its error on held-out memories."""
    place, partitions = plan(10)
    steps = _prepare(place, partitions)

    pins = _pins(place)
    assert isinstance(steps[0], Speed)
    assert steps[0].tokens_per_s > 0
    assert steps[1] == Step("encoding a sample for the codec, tokens", 0, _sampled_tokens(steps))
    assert isinstance(steps[-1], Step)
    assert steps[-1].done == steps[-1].total
    assert load_codec(place.open().collection, pins.codec_id).dim == 32
    assert pins.reconstruction_error is not None
    assert 0 < pins.reconstruction_error < 1


def test_the_sample_is_about_as_large_as_asked(plan: Plan) -> None:
    """A passage more from each partition at most, and never none."""
    place, partitions = plan(30, codec_sample_tokens=300)
    sampled = choose_sampled(partitions)

    num_tokens = _sampled_tokens(_prepare(place, sampled))

    assert 300 <= num_tokens <= 300 + 16 * len(sampled)


def test_the_same_job_trains_the_same_codec(plan: Plan, tmp_path: Path) -> None:
    """Another run from nothing, as after a lost store, has the same codec id."""
    place, partitions = plan(10)
    _prepare(place, partitions)
    first = _pins(place)

    other = replace(place, location=str(tmp_path / "other"))
    other.open().put_spec(place.open().spec())
    _prepare(other, partitions)

    assert _pins(other) == first


def test_what_is_pinned_is_not_decided_again(plan: Plan) -> None:
    """A second run goes straight on."""
    place, partitions = plan(4)
    decided = JobPins(codec_id="1" * 64, dictionary="", reconstruction_error=None)
    place.open().put_pins(decided)

    assert _prepare(place, partitions) == []
    assert _pins(place) == decided


def test_a_given_codec_is_used(plan: Plan) -> None:
    """No codec is trained, and no error is stated."""
    probe, _ = plan(4)
    codec = _put_codec(probe)
    place, partitions = plan(4, codec=codec.id)

    steps = _prepare(place, partitions)

    assert [type(step) for step in steps] == [Speed]
    assert _pins(place).codec_id == codec.id
    assert _pins(place).reconstruction_error is None


def test_a_given_codec_that_is_gone_is_an_error(plan: Plan) -> None:
    """Nothing is pinned."""
    place, partitions = plan(4, codec="0" * 64)

    with pytest.raises(CodecNotFoundError):
        _prepare(place, partitions)
    assert place.open().pins() is None


def test_a_short_corpus_has_no_text_dictionary(plan: Plan) -> None:
    """There is too little to learn one from."""
    place, partitions = plan(4)
    _prepare(place, partitions)

    assert _pins(place).dictionary == ""


def test_a_corpus_of_one_word_can_be_prepared(plan: Plan) -> None:
    """Training and held-out memories are then the same."""
    place, partitions = plan(1, partition_bytes=10**6)
    _prepare(place, partitions)

    assert _pins(place).reconstruction_error is not None
