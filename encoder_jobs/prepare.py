"""What a job decides once, before its first shard: which codec and which text dictionary all its
shards use.

Does not: encode the corpus; it encodes a sample, spread evenly over the input.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from encoder_jobs.codec_training import (
    Step,
    Trained,
    encode_sample,
    encode_vocabulary,
    train_codec,
)
from encoder_jobs.records import JobPlace
from encoder_jobs.spec import JobPins, JobSpec
from encoder_jobs.stages import (
    cached_encoder,
    cached_splitter,
    tokenize,
    use_all_cores,
)
from memstore.codec.recipes import NAMES, choose_recipes
from memstore.encoders.documents import find_documents
from memstore.encoders.families import FAMILIES
from memstore.errors import CollectionNotFoundError, ConfigError, InvalidInputError
from memstore.storage import Collection, train_dictionary
from memstore.text import Partition
from memstore.types import EncoderIdentity, MemoryEncoder, PassageSplitter, TokenizedPassage
from memstore.views import load_codec

_SAMPLED_PARTITIONS = 32
_PROBED_PASSAGES, _PROBES = 12, 3


class Spread(NamedTuple):
    """Passages spread over a corpus, and how many tokens a byte of its text makes.

    What is `sampled` of `passages`, by position, is the sample: all of them, or, where documents
    are read whole, a part of each.
    """

    passages: list[TokenizedPassage]
    sampled: list[int]
    tokens_per_byte: float


class Speed(NamedTuple):
    """How fast one encoder is where the job runs."""

    tokens_per_s: float


def choose_sampled(partitions: Sequence[Partition]) -> list[Partition]:
    """Return the partitions that the sample is taken from: up to 32, spread evenly."""
    num_chosen = min(_SAMPLED_PARTITIONS, len(partitions))
    return [partitions[int(i)] for i in np.linspace(0, len(partitions) - 1, num_chosen).round()]


def prepare_job(place: JobPlace, sampled: Sequence[Partition]) -> Iterator[Step | Speed]:
    """Pin the job's codec and dictionary, unless an earlier run did. Runs where an encoder runs.

    Args:
        place: the job.
        sampled: partitions to take a sample of passages from.

    Yields:
        The encoder's speed, then progress, for a display.
    """
    job = place.open()
    if job.pins() is not None:
        return
    use_all_cores()
    spec, collection = job.spec(), job.collection
    splitter = cached_splitter(place.encoder)
    spread = spread_passages(
        splitter, sampled, spec.options.codec_sample_tokens, spec.metadata_columns
    )
    if not spread.passages:
        raise InvalidInputError("the corpus holds no text: not one passage can be made of it")
    encoder = cached_encoder(place.encoder, spec.encoder_id)
    yield _probe(encoder, spread.passages)
    dictionary = collection.put_dictionary(
        train_dictionary([spread.passages[row].passage.text for row in spread.sampled])
    )
    codec_id, error = _given_codec(collection, spec), None
    if codec_id:
        _check_codec(collection, codec_id, encoder.identity)
    else:
        trained = yield from _train_codec(encoder, splitter, spec, spread)
        collection.put_codec(trained.codec.id, dict(trained.codec.files()))
        codec_id, error = trained.codec.id, trained.error
    job.put_pins(JobPins(codec_id=codec_id, dictionary=dictionary, reconstruction_error=error))


def _probe(encoder: MemoryEncoder, sample: Sequence[TokenizedPassage]) -> Speed:
    """Time a few passages: the fastest of three goes, after one that warms up."""
    few = [*sample[:_PROBED_PASSAGES]]
    few[-1] = replace(few[-1], is_last=True)  # a document that goes on is as fast, token by token
    seconds = []
    for _ in range(_PROBES + 1):
        began = time.perf_counter()
        num_tokens = sum(len(batch.memories) for batch in encoder.encode(few))
        seconds.append(time.perf_counter() - began)
    return Speed(num_tokens / min(seconds[1:]))


def _given_codec(collection: Collection, spec: JobSpec) -> str:
    """Return the codec that the user or the collection prescribes, "" if one must be trained."""
    if spec.options.codec not in NAMES:
        return load_codec(collection, spec.options.codec).id
    if spec.options.mode == "replace" or spec.options.codec != "auto":
        return ""
    try:
        return collection.snapshot().manifest.codec_id
    except CollectionNotFoundError:
        return ""


def _check_codec(collection: Collection, codec_id: str, identity: EncoderIdentity) -> None:
    """Refuse a codec that predicts memories from token ids where a memory stands for several."""
    if identity.pool_tokens > 1 and load_codec(collection, codec_id).needs_token_ids:
        raise ConfigError(
            f"codec {codec_id[:16]}… predicts a memory from its token, but with pool_tokens = "
            f"{identity.pool_tokens} a memory is the mean of several; give a codec without "
            "predictor, 'auto' in a collection of its own, or pool_tokens 1",
            codec_id=codec_id,
        )


def spread_passages(
    splitter: PassageSplitter,
    partitions: Sequence[Partition],
    num_tokens: int,
    metadata_columns: dict[str, str],
) -> Spread:
    """Return a sample of about `num_tokens` memories, as many from each partition.

    Where documents are read whole, as many of each partition as hold its share are, at least one.
    """
    quota = num_tokens / len(partitions)
    chosen: list[TokenizedPassage] = []
    sampled: list[int] = []
    num_seen = 0
    for partition in partitions:
        passages = tokenize(partition, splitter, metadata_columns).passages
        num_found = _count(passages)
        num_seen += num_found
        if splitter.is_document_wide:
            documents = find_documents(passages)
            taken = [documents[i] for i in _spread(len(documents), quota, num_found)]
            passages = [passages[row] for document in taken for row in document]
            num_found = _count(passages)
        rows = _spread(len(passages), quota, num_found)
        if splitter.is_document_wide:
            sampled.extend(len(chosen) + row for row in rows)
            chosen.extend(passages)
        else:
            sampled.extend(range(len(chosen), len(chosen) + len(rows)))
            chosen.extend(passages[row] for row in rows)
    num_bytes = sum(partition.num_text_bytes for partition in partitions)
    return Spread(chosen, sampled, num_seen / max(num_bytes, 1))


def _spread(count: int, quota: float, num_found: int) -> list[int]:
    """Return which of `count` things to take, evenly spread: all hold `num_found` memories, they
    about `quota`.
    """
    num_taken = min(count, math.ceil(count * quota / max(num_found, 1)))
    return [int(i) for i in np.linspace(0, count - 1, num_taken).round()]


def _count(passages: Sequence[TokenizedPassage]) -> int:
    return sum(each.passage.num_tokens for each in passages)


def _train_codec(
    encoder: MemoryEncoder, splitter: PassageSplitter, spec: JobSpec, spread: Spread
) -> Generator[Step, None, Trained]:
    """Yield progress; return the codec that the job's options stand for."""
    sample = yield from encode_sample(encoder, spread.passages, spread.sampled)
    recipes = choose_recipes(
        spec.options.codec,
        dim=encoder.identity.memory_dim,
        num_vectors=len(sample.vectors),
        is_post_norm=FAMILIES[encoder.identity.family].is_post_norm,
        vocabulary_size=splitter.vocabulary_size if sample.token_ids is not None else 0,
        num_tokens=int(spread.tokens_per_byte * spec.num_text_bytes),
    )
    if any(recipe.predictor for recipe in recipes):
        vocabulary = yield from encode_vocabulary(encoder, splitter)
        sample = replace(sample, vocabulary=vocabulary)
    return (yield from train_codec(recipes, sample))
