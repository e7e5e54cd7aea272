"""Documents read whole by LongVQ, from the corpus to the store, the server and a reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from encoder_jobs.prepare import spread_passages
from memstore import Client, ProductCodec, Store, open_store
from memstore.codec.sample import read_sample
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.encoders.documents import find_documents
from memstore.errors import EncoderMismatchError
from memstore.models.lumen_config import LumenConfig
from memstore.readers.decoding import MemoryDecoder
from memstore.readers.pins import check_collection
from memstore.text import open_corpus, scan
from memstore.types import Document, TokenizedPassage
from tests.integration.conftest import Done
from tests.integration.serving.conftest import Running
from tests.integration.stores import nothing_written, texts_of
from tests.tiny import WORDS, make_records, write_jsonl
from tests.tiny_longvq_encoder import DIM, save_longvq

Encode = Callable[..., Done]
Cli = Callable[..., Done]


@pytest.fixture(scope="module")
def longvq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder; the encoder's memories are 16 wide."""
    return save_longvq(tmp_path_factory.mktemp("encoders") / "longvq")


def _options(longvq: Path, *, pool_tokens: int = 1) -> EncoderOptions:
    return EncoderOptions(source=str(longvq), window_tokens=32, pool_tokens=pool_tokens)


def _passages(options: EncoderOptions, count: int = 12) -> list[TokenizedPassage]:
    splitter = load_splitter(options)
    return [
        passage
        for record in make_records(count)
        for passage in splitter.split(Document(record["id"], record["text"], record["title"]))
    ]


def _encoded(
    options: EncoderOptions, passages: list[TokenizedPassage]
) -> tuple[list[np.ndarray], np.ndarray]:
    """The memory of each passage and all retrieval vectors, by the encoder alone."""
    encoder = load_encoder(options, device="cpu")
    memories: dict[int, np.ndarray] = {}
    embeddings = np.empty((len(passages), encoder.identity.embedding_dim), np.float32)
    for batch in encoder.encode(passages):
        parts = np.split(batch.memories, batch.offsets[1:-1])
        memories |= dict(zip(batch.rows, parts, strict=True))
        embeddings[batch.rows] = batch.embeddings
    return [memories[row] for row in range(len(passages))], embeddings


def _relative_error(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    rows, expected = np.concatenate(found), np.concatenate(wanted)
    return float(((rows - expected) ** 2).sum() / (expected**2).sum())


def _vectors(store: Store, passages: list[TokenizedPassage]) -> np.ndarray:
    snapshot = store.collection("default").snapshot()
    place = {name: i for i, name in enumerate(snapshot.column("passage_id").to_pylist())}
    return snapshot.embedding_rows(np.array([place[p.passage.passage_id] for p in passages]))


@contextmanager
def _client(store: Store, cache: Path) -> Iterator[Client]:
    server = Running(store, {})
    client = Client(server.grpc, cache_dir=cache)
    try:
        yield client
    finally:
        client.close()
        server.stop()


@pytest.mark.parametrize("pool_tokens", [1, 3])
def test_memories_decode_close_to_those_of_the_whole_document(
    encode: Encode, corpus: Path, store: Path, longvq: Path, pool_tokens: int
) -> None:
    """Partitions, sample, codec and shards keep documents together, pooled or not; the passages'
    texts are the documents'.
    """
    options = _options(longvq, pool_tokens=pool_tokens)
    passages = _passages(options)
    wanted, embeddings = _encoded(options, passages)

    report = encode(corpus, "--encoder", longvq, "--pool-tokens", pool_tokens).json()

    opened = open_store(store)
    stored = opened.fetch([passage.passage.passage_id for passage in passages]).memories
    assert report["num_partitions"] > 1
    assert report["num_tokens"] == sum(len(memory) for memory in wanted)
    assert [memory.num_tokens for memory in stored] == [len(memory) for memory in wanted]
    error = _relative_error([memory.decode() for memory in stored], wanted)
    assert 0 < error < 2 * report["reconstruction_error"]
    np.testing.assert_allclose(_vectors(opened, passages), embeddings, atol=1e-3)
    assert texts_of(store) == {record["id"]: record["text"] for record in make_records(12)}


@pytest.mark.parametrize("pool_tokens", [1, 3])
def test_questions_are_answered_embedded_and_served(
    encode: Encode, cli: Cli, corpus: Path, store: Path, longvq: Path, tmp_path: Path,
    pool_tokens: int,
) -> None:  # fmt: skip
    """Ranked by vectors, or by codes as well; a client gets the hits and memories of the store."""
    encode(corpus, "--encoder", longvq, "--pool-tokens", pool_tokens)
    question = make_records(12)[5]["text"]

    opened = open_store(store)
    embedded = opened.query(question, top_k=4, rerank=8)
    with _client(opened, tmp_path / "codecs") as client:
        served = client.query(question, top_k=4, rerank=8)
    printed = cli("query", question, "--store", store, "--top-k", 4, "--rerank", "--output", "json")

    assert served.hits == embedded.hits
    assert len(printed.json()["hits"]) == 4
    for mine, theirs in zip(embedded.memories, served.memories, strict=True):
        np.testing.assert_array_equal(mine.decode(), theirs.decode())


def test_a_codec_that_predicts_from_tokens_goes_with_it(
    encode: Encode, cli: Cli, corpus: Path, store: Path, longvq: Path, tmp_path: Path
) -> None:
    """There is a token id for every memory; sample, training and job agree on the documents."""
    sample, codec = tmp_path / "sample", tmp_path / "codec"
    options = _options(longvq)
    passages = _passages(options)
    wanted, _ = _encoded(options, passages)
    shape = ("--encoder", longvq, "--window-tokens", 32)
    stages = ("--subspaces", 4, "--codebook-size", 16, "--predictor", "context")

    assert cli("codec", "sample", corpus, "--output", sample, *shape).code == 0
    assert cli("codec", "train", sample, "--output", codec, *stages).code == 0
    assert encode(corpus, "--encoder", longvq, "--codec", codec).code == 0

    taken = read_sample(sample)
    np.testing.assert_allclose(taken.vectors, np.concatenate(wanted), atol=1e-2)
    stored = open_store(store).fetch([each.passage.passage_id for each in passages]).memories
    assert ProductCodec.load(codec).needs_token_ids
    assert _relative_error([memory.decode() for memory in stored], wanted) < 0.2


def test_a_predicting_codec_is_refused_for_pooled_memories(
    encode: Encode, cli: Cli, corpus: Path, longvq: Path, tmp_path: Path
) -> None:
    """Before the corpus is encoded; the error says what to give instead."""
    sample, codec = tmp_path / "sample", tmp_path / "codec"
    stages = ("--subspaces", 4, "--codebook-size", 16, "--predictor", "token")
    cli("codec", "sample", corpus, "--output", sample, "--encoder", longvq)
    cli("codec", "train", sample, "--output", codec, *stages)

    done = encode(corpus, "--encoder", longvq, "--codec", codec, "--pool-tokens", 2)

    assert done.code == 2
    assert "pool_tokens = 2 a memory is the mean of several" in done.err


def test_options_that_do_not_fit_are_refused_before_anything_is_written(
    encode: Encode, corpus: Path, longvq: Path, tmp_path: Path
) -> None:
    """Overlap of spans of one text; pooling by an encoder of passages."""
    folder = tmp_path / "store"
    folder.mkdir()
    with nothing_written(folder):
        overlapping = encode(corpus, "--encoder", longvq, "--stride-tokens", 8)
        pooled = encode(corpus, "--pool-tokens", 2)

    assert (overlapping.code, pooled.code) == (2, 2)
    assert "reads documents whole" in overlapping.err
    assert "reads passages one by one" in pooled.err


def test_another_pooling_is_another_encoder(encode: Encode, corpus: Path, other: Path) -> None:
    """A collection is pinned to its rate."""
    longvq = save_longvq(corpus.parent / "longvq")
    encode(corpus, "--encoder", longvq)

    done = encode(other, "--encoder", longvq, "--pool-tokens", 2)

    assert done.code == 4
    assert "is pinned to encoder" in done.err


def test_a_job_of_a_document_of_64k_tokens_keeps_all_of_it(
    encode: Encode, store: Path, tmp_path: Path
) -> None:
    """In one partition however small those are; its middle is what one pass over it all gives."""
    longvq = save_longvq(tmp_path / "longvq", window=64)
    text = " ".join(np.random.default_rng(0).choice(WORDS, 65_536).tolist())
    corpus = write_jsonl(tmp_path / "long.jsonl", [{"id": "long", "text": text}])
    options = EncoderOptions(source=str(longvq), window_tokens=512)
    passages = load_splitter(options).split(Document("long", text))

    report = encode(
        *(corpus, "--encoder", longvq, "--window-tokens", 512, "--codec-sample-tokens", 4096)
    ).json()

    assert (report["num_passages"], report["num_tokens"]) == (128, 65_536)
    wanted, _ = _encoded(options, passages)
    stored = open_store(store).fetch(["long#0", "long#64", "long#127"]).memories
    found = [memory.decode() for memory in stored]
    assert _relative_error(found, [wanted[0], wanted[64], wanted[127]]) < 0.5


def test_a_sample_reads_few_documents_whole_and_takes_passages_of_each(
    corpus: Path, longvq: Path
) -> None:
    """From every partition its share; what is read are documents from beginning to end."""
    found = scan(open_corpus(corpus), partition_bytes=1500)

    spread = spread_passages(
        *(load_splitter(_options(longvq)), found.partitions, 200, found.metadata_columns)
    )

    documents = find_documents(spread.passages)
    taken = [spread.passages[row] for row in spread.sampled]
    assert len(found.partitions) <= len(documents) < 12
    assert len(taken) < len(spread.passages)
    assert 200 <= sum(each.passage.num_tokens for each in taken) <= 200 + 32 * len(documents)
    assert len({each.passage.document_id for each in taken}) >= len(found.partitions)


def test_readers_decode_its_memories_and_refuse_those_of_another_encoder(
    encode: Encode, corpus: Path, store: Path, longvq: Path
) -> None:
    """A reader that is pinned to it takes the collection; one of another encoder does not."""
    encode(corpus, "--encoder", longvq)
    opened = open_store(store)
    pinned = LumenConfig({"d_model": DIM, "num_layers": 4}, 2, opened.collection_info().encoder_id)
    stranger = LumenConfig({"d_model": DIM, "num_layers": 4}, 2, encoder_id="f" * 64)

    check_collection(pinned, opened, "default")
    result = opened.query("whale and ice", top_k=3)
    decoder = MemoryDecoder(pinned, torch.device("cpu"), torch.float32)
    padded = decoder.decode([result.memories])

    num_tokens = [memory.num_tokens for memory in result.memories]
    assert padded.vectors.shape == (1, 3, max(num_tokens), DIM)
    assert padded.mask[0].sum(dim=1).tolist() == num_tokens
    with pytest.raises(EncoderMismatchError, match="not what the reader was trained on"):
        check_collection(stranger, opened, "default")
