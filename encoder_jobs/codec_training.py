"""How a job trains its codec: memories of a sample, of the vocabulary, then the best candidate."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memstore.codec import ProductCodec
from memstore.codec.recipes import Recipe, train_best
from memstore.codec.sample import Sample
from memstore.types import MemoryEncoder, PassageSplitter, TokenizedPassage


class Step(NamedTuple):
    """Progress of the preparation: `done` of `total` units of `what`."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A codec, and its centred relative MSE on memories that it was not trained on."""

    codec: ProductCodec
    error: float


def encode_sample(
    encoder: MemoryEncoder,
    passages: Sequence[TokenizedPassage],
    sampled: Sequence[int] | None = None,
) -> Generator[Step, None, Sample]:
    """Yield progress; return the memories of the passages at `sampled` (None: of all).

    All are encoded, since where documents are read whole the others are around these.
    """
    places = {row: i for i, row in enumerate(range(len(passages)) if sampled is None else sampled)}
    chosen = [passages[row] for row in places]
    offsets = np.cumsum([0, *(each.passage.num_tokens for each in chosen)])
    vectors = np.empty((int(offsets[-1]), encoder.identity.memory_dim), np.float32)
    done, total = 0, sum(each.passage.num_tokens for each in passages)
    yield Step("encoding a sample for the codec, tokens", done, total)
    for batch in encoder.encode(passages):
        parts = np.split(batch.memories, batch.offsets[1:-1])
        for row, memory in zip(batch.rows, parts, strict=True):
            if row in places:
                place = places[row]
                vectors[offsets[place] : offsets[place + 1]] = memory
        done += len(batch.memories)
        yield Step("encoding a sample for the codec, tokens", done, total)
    token_ids = None
    if encoder.identity.pool_tokens == 1:
        token_ids = np.concatenate([each.token_ids for each in chosen])
    return Sample(vectors, token_ids, offsets)


def encode_vocabulary(
    encoder: MemoryEncoder, splitter: PassageSplitter
) -> Generator[Step, None, np.ndarray]:
    """Yield progress; return (V, D) float32: the memory of every token when it stands alone."""
    passages = splitter.vocabulary()
    memories = np.empty((len(passages), encoder.identity.memory_dim), np.float32)
    done = 0
    for batch in encoder.encode(passages):
        memories[batch.rows] = batch.memories[batch.offsets[:-1] + splitter.num_prefix_tokens]
        done += len(batch.rows)
        yield Step("encoding the vocabulary, tokens", done, len(passages))
    return memories


def train_codec(recipes: Sequence[Recipe], sample: Sample) -> Generator[Step, None, Trained]:
    """Yield progress; return the best of the candidates. Trains in a thread, to be able to."""
    steps: queue.Queue[Step | BaseException | Trained] = queue.Queue()

    def work() -> None:
        try:
            codec, error = train_best(
                recipes,
                sample,
                progress=lambda done, total: steps.put(
                    Step("training the codec, subspaces", done, total)
                ),
            )
            steps.put(Trained(codec, error))
        except BaseException as err:
            steps.put(err)

    threading.Thread(target=work, daemon=True).start()
    while True:
        item = steps.get()
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, Trained):
            return item
        yield item
