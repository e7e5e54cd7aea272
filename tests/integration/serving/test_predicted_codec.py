"""A codec that predicts from token ids and turns the basis, from the encoder to the client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encoder_jobs.codec_training import encode_sample, encode_vocabulary
from encoder_jobs.progress import ProgressDisplay
from memstore import Client, Passage, ProductCodec, open_store
from memstore.codec.sample import Sample
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.errors import ConfigError, ShapeError
from memstore.types import Document, TokenizedPassage
from tests.integration.conftest import Done
from tests.integration.serving.conftest import Running
from tests.tiny import make_records

Encode = Callable[..., Done]
Made = tuple[list[TokenizedPassage], Sample, ProductCodec]


@pytest.fixture(scope="module")
def made(tiny_encoder: Path) -> Made:
    """The passages of `corpus`, their memories, and a codec with both stages trained on them."""
    options = EncoderOptions(source=str(tiny_encoder), window_tokens=32)
    encoder, splitter = load_encoder(options), load_splitter(options)
    passages = [
        passage
        for record in make_records(12)
        for passage in splitter.split(Document(record["id"], record["text"], record["title"]))
    ]
    display = ProgressDisplay(quiet=True)
    memories = display.follow(encode_sample(encoder, passages))
    codec = ProductCodec.train(
        memories.vectors,
        token_ids=memories.token_ids,
        offsets=memories.offsets,
        vocabulary=display.follow(encode_vocabulary(encoder, splitter)),
        num_subspaces=4,
        codebook_size=16,
        rotation="pca",
        predictor="context",
    )
    return passages, memories, codec


def test_job_store_and_server_give_the_same_memories(
    made: Made,
    encode: Encode,
    corpus: Path,
    tmp_path: Path,
    serve: Callable[..., Running],
    connect: Callable[..., Client],
) -> None:
    """What the codec makes of the encoder's output, embedded, by codes and by vectors."""
    passages, memories, codec = made
    codec.save(tmp_path / "codec")
    assert encode(corpus, "--codec", tmp_path / "codec").code == 0
    ids = [passage.passage.passage_id for passage in passages]
    embedded = open_store(tmp_path / "store")
    client = connect(serve(embedded))
    records = codec.encode(memories.vectors, memories.token_ids, memories.offsets)
    wanted = np.split(codec.decode(records, memories.offsets), memories.offsets[1:-1])
    answers = [
        embedded.fetch(ids).memories,
        client.fetch(ids).memories,
        client.fetch(ids, decoded="float32").memories,
    ]
    assert embedded.collection_info().record_bytes == 6
    for answer in answers:
        for memory, vectors in zip(answer, wanted, strict=True):
            np.testing.assert_allclose(memory.decode(), vectors, rtol=1e-4, atol=1e-4)


def test_memories_that_a_user_brings_are_written_with_their_token_ids(
    made: Made, tmp_path: Path
) -> None:
    """Without ids the codec of such a collection cannot encode, and the error says so."""
    tokenized, memories, codec = made
    passages: list[Passage] = [each.passage for each in tokenized]
    vectors = np.split(memories.vectors, memories.offsets[1:-1])
    ids = [each.token_ids for each in tokenized]
    store = open_store(tmp_path / "brought")
    with pytest.raises(ConfigError, match="predicts memories from token ids"):
        store.write(passages, vectors, codec=codec)
    with pytest.raises(ShapeError, match="as many for each passage"):
        store.write(passages, vectors, codec=codec, token_ids=[ids[0][:-1], *ids[1:]])
    store.write(passages, vectors, codec=codec, token_ids=ids)
    found = store.fetch([passage.passage_id for passage in passages]).memories
    records = codec.encode(memories.vectors, memories.token_ids, memories.offsets)
    np.testing.assert_array_equal(np.concatenate([memory.records for memory in found]), records)
