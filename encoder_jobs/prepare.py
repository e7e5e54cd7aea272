"""What a job decides once, before its first shard: which codec and which text dictionary all its
shards use.

Does not: encode the corpus; it encodes a sample, spread evenly over the input.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from encoder_jobs.records import JobPlace
from encoder_jobs.spec import JobPins, JobSpec
from encoder_jobs.stages import (
    cached_encoder,
    cached_splitter,
    tokenize,
    use_all_cores,
)
from memstore.codec import ProductCodec, choose_layout, reconstruction
from memstore.errors import CollectionNotFoundError, InvalidInputError
from memstore.storage import Collection, train_dictionary
from memstore.text import Partition
from memstore.types import MemoryEncoder, PassageSplitter, TokenizedPassage
from memstore.views import load_codec

_SAMPLED_PARTITIONS = 32
_HELD_OUT_EVERY = 10
_PROBED_PASSAGES, _PROBES = 12, 3


class Step(NamedTuple):
    """Progress of the preparation: `done` of `total` units of `what`."""

    what: str
    done: int
    total: int


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
    sample = _sample_passages(cached_splitter(place.encoder), spec, sampled)
    if not sample:
        raise InvalidInputError("the corpus holds no text: not one passage can be made of it")
    encoder = cached_encoder(place.encoder, spec.encoder_id)
    yield _probe(encoder, sample)
    dictionary = collection.put_dictionary(train_dictionary([p.passage.text for p in sample]))
    codec_id, error = _given_codec(collection, spec), None
    if codec_id is None:
        memories: list[np.ndarray] = []
        yield from _encode_sample(encoder, sample, memories)
        held_out = memories[::_HELD_OUT_EVERY]
        training = [m for i, m in enumerate(memories) if i % _HELD_OUT_EVERY] or held_out
        trained: list[ProductCodec] = []
        yield from _train(np.concatenate(training), trained)
        codec = trained[0]
        collection.put_codec(codec.id, dict(codec.files()))
        codec_id = codec.id
        error = reconstruction(np.concatenate(held_out), codec).relative_mse
    job.put_pins(JobPins(codec_id=codec_id, dictionary=dictionary, reconstruction_error=error))


def _probe(encoder: MemoryEncoder, sample: Sequence[TokenizedPassage]) -> Speed:
    """Time a few passages: the fastest of three goes, after one that warms up."""
    few = sample[:_PROBED_PASSAGES]
    seconds = []
    for _ in range(_PROBES + 1):
        began = time.perf_counter()
        num_tokens = sum(len(batch.memories) for batch in encoder.encode(few))
        seconds.append(time.perf_counter() - began)
    return Speed(num_tokens / min(seconds[1:]))


def _given_codec(collection: Collection, spec: JobSpec) -> str | None:
    """Return the codec that the user or the collection prescribes, None if one must be trained."""
    if spec.options.codec != "auto":
        return load_codec(collection, spec.options.codec).id
    if spec.options.mode == "replace":
        return None
    try:
        return collection.snapshot().manifest.codec_id
    except CollectionNotFoundError:
        return None


def _sample_passages(
    splitter: PassageSplitter, spec: JobSpec, sampled: Sequence[Partition]
) -> list[TokenizedPassage]:
    """Return passages of about `codec_sample_tokens` tokens, as many tokens from each partition."""
    quota = spec.options.codec_sample_tokens / len(sampled)
    sample: list[TokenizedPassage] = []
    for partition in sampled:
        passages = tokenize(partition, splitter, spec.metadata_columns).passages
        num_tokens = sum(len(passage.token_ids) for passage in passages)
        num_taken = min(len(passages), math.ceil(len(passages) * quota / max(num_tokens, 1)))
        sample.extend(
            passages[int(i)] for i in np.linspace(0, len(passages) - 1, num_taken).round()
        )
    return sample


def _encode_sample(
    encoder: MemoryEncoder, sample: Sequence[TokenizedPassage], memories: list[np.ndarray]
) -> Iterator[Step]:
    """Fill `memories` with one (T, D) float32 array a passage, in the order of the batches."""
    total = sum(len(passage.token_ids) for passage in sample)
    done = 0
    yield Step("encoding a sample for the codec, tokens", done, total)
    for batch in encoder.encode(sample):
        memories.extend(np.split(batch.memories, batch.offsets[1:-1]))
        done += len(batch.memories)
        yield Step("encoding a sample for the codec, tokens", done, total)


def _train(vectors: np.ndarray, trained: list[ProductCodec]) -> Iterator[Step]:
    """Train a codec on (T, D) vectors and leave it in `trained`, yielding progress."""
    layout = choose_layout(vectors.shape[1], len(vectors))
    steps: queue.Queue[Step | BaseException | ProductCodec] = queue.Queue()

    def work() -> None:
        try:
            steps.put(
                ProductCodec.train(
                    vectors,
                    num_subspaces=layout.num_subspaces,
                    codebook_size=layout.codebook_size,
                    seed=0,
                    progress=lambda done, total: steps.put(
                        Step("training the codec, subspaces", done, total)
                    ),
                )
            )
        except BaseException as err:
            steps.put(err)

    threading.Thread(target=work, daemon=True).start()
    while True:
        item = steps.get()
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, ProductCodec):
            trained.append(item)
            return
        yield item
