"""The loop closed: a T5 is cut, its encoder fills a store through a codec, its reader answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import memstore
from memstore import AsyncClient, Client, ProductCodec, Store, open_store
from memstore.cli.main import run
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.errors import CodecMismatchError, CollectionNotFoundError, EncoderMismatchError
from memstore.evaluation import Question, evaluate_reader
from memstore.models.folding import fold_rotation
from memstore.models.lumen import Lumen
from memstore.readers import Answer, LumenReader
from memstore.text import load_tokenizer
from memstore.types import Document, FetchResult, QueryResult
from tests.integration.serving.conftest import Running
from tests.tiny import make_records, write_jsonl
from tests.tiny_t5 import DIM, save_t5

LIVE_FRACTION = "1/2"
QUESTIONS = ["the ship in the storm", "ice", "a cold sea over the mast", "whale", "lamp and bell"]
WINDOW = {"live_fraction": LIVE_FRACTION, "window_tokens": 24}


@dataclass(frozen=True)
class Loop:
    """Folders of a reader, of the same reader with the codec's rotation folded in, of the store
    that they read from, and of the encoder that filled it.
    """

    reader: Path
    folded: Path
    store: Path
    encoder: Path


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """What `memstore train lumen-vq` leaves behind, without the training."""
    root = tmp_path_factory.mktemp("loop")
    t5 = save_t5(root / "t5", relative_attention_num_buckets=16)
    tokenizer_file = t5 / "tokenizer.json"
    model = Lumen.from_pretrained(t5, live_fraction=LIVE_FRACTION)
    model.export_encoder(root / "encoder", tokenizer_file)
    codec = _train_codec(root / "encoder", t5)
    codec.save(root / "codec")
    _encode(root / "store", root / "encoder", codec=str(root / "codec"))
    info = open_store(root / "store").collection_info()
    model.config = replace(model.config, encoder_id=info.encoder_id, codec_id=info.codec_id)
    model.save_pretrained(root / "reader", tokenizer_file)
    assert codec.rotation is not None
    folded = fold_rotation(model, codec.rotation.matrix())
    folded.save_pretrained(root / "folded", tokenizer_file)
    return Loop(root / "reader", root / "folded", root / "store", root / "encoder")


@pytest.fixture
def store(loop: Loop) -> Store:
    """The store, embedded."""
    return open_store(loop.store)


@pytest.fixture
def server(store: Store) -> Iterator[Running]:
    """The store behind gRPC."""
    running = Running(store, {})
    yield running
    running.stop()


@pytest.fixture
def client(server: Running, tmp_path: Path) -> Iterator[Client]:
    """A client with a cache of codecs of its own."""
    with Client(server.grpc, cache_dir=tmp_path / "codecs") as connected:
        yield connected


def _train_codec(encoder_folder: Path, t5: Path) -> ProductCodec:
    """Train a codec with both stages on the memories of the corpus."""
    options = EncoderOptions(source=str(encoder_folder), **WINDOW)  # type: ignore[arg-type]
    splitter = load_splitter(options)
    passages = [
        passage
        for record in make_records(12)
        for passage in splitter.split(Document(record["id"], record["text"], record["title"]))
    ]
    vectors: dict[int, np.ndarray] = {}
    for batch in load_encoder(options).encode(passages):
        vectors |= dict(zip(batch.rows, np.split(batch.memories, batch.offsets[1:-1]), strict=True))
    return ProductCodec.train(
        np.concatenate([vectors[row] for row in range(len(passages))]),
        num_subspaces=4,
        codebook_size=16,
        token_ids=np.concatenate([passage.token_ids for passage in passages]),
        offsets=np.cumsum([0, *(len(passage.token_ids) for passage in passages)]),
        vocabulary=splitter.vocabulary_size,
        rotation="pca",
        predictor="token",
    )


def _encode(store: Path, encoder: Path, **options: str) -> None:
    corpus = write_jsonl(store.parent / "corpus.jsonl", make_records(12))
    memstore.encode(str(corpus), store=str(store), encoder=str(encoder), **WINDOW, **options)


def _by_hand(folder: Path, found: QueryResult, question: str) -> list[int]:
    """Answer with `Lumen.generate` on the memories of a query, decoded one by one."""
    model = Lumen.from_pretrained(folder)
    ids = torch.tensor([load_tokenizer(folder / "tokenizer.json").encode(question).ids])
    longest = max(memory.num_tokens for memory in found.memories)
    vectors = torch.full((1, len(found.memories), longest, DIM), torch.nan)
    mask = torch.zeros(vectors.shape[:3])
    for number, memory in enumerate(found.memories):
        vectors[0, number, : memory.num_tokens] = memory.to_torch(dtype="float32")
        mask[0, number, : memory.num_tokens] = 1
    written = model.generate(ids, torch.ones_like(ids), vectors, mask)[0].tolist()
    return written[: written.index(1)] if 1 in written else written


def test_the_reader_answers_from_the_store(loop: Loop, store: Store) -> None:
    """As the model does on what the store's query gives, with the store's passages and scores."""
    answers = LumenReader.from_pretrained(loop.reader, store, top_k=3).answer(QUESTIONS)
    for answer, question in zip(answers, QUESTIONS, strict=True):
        found = store.query(question, top_k=3)
        assert answer.passages == found.hits
        assert list(answer.token_ids) == _by_hand(loop.reader, found, question)
    assert len({answer.passages[0].passage_id for answer in answers}) > 1
    assert len({answer.token_ids for answer in answers}) > 1


def test_batches_do_not_change_answers(loop: Loop, store: Store) -> None:
    """Alone, in pairs, or all at once."""
    reader = LumenReader.from_pretrained(loop.reader, store)
    alone = [reader.answer([question])[0] for question in QUESTIONS]
    assert reader.answer(QUESTIONS, batch_size=2) == alone
    assert reader.answer(QUESTIONS) == alone


def test_a_folded_reader_gives_the_same_answers(loop: Loop, store: Store) -> None:
    """From records that are decoded in the rotated basis."""
    plain = LumenReader.from_pretrained(loop.reader, store).answer(QUESTIONS)
    assert LumenReader.from_pretrained(loop.folded, store).answer(QUESTIONS) == plain


def _tokens(answers: Sequence[Answer]) -> list[tuple[list[str], tuple[int, ...]]]:
    """What was read and written; scores may round otherwise beyond the wire."""
    return [([each.passage_id for each in a.passages], a.token_ids) for a in answers]


@pytest.mark.parametrize("name", ["reader", "folded"])
def test_a_server_gives_the_same_answers(
    loop: Loop, store: Store, client: Client, name: str
) -> None:
    """Codes travel, and are decoded here."""
    folder = getattr(loop, name)
    wanted = LumenReader.from_pretrained(folder, store, top_k=3).answer(QUESTIONS)
    answers = LumenReader.from_pretrained(folder, client, top_k=3).answer(QUESTIONS, batch_size=2)
    assert _tokens(answers) == _tokens(wanted)


def test_an_event_loop_reads_over_the_wire(
    loop: Loop, store: Store, server: Running, tmp_path: Path
) -> None:
    """The same answers from an `AsyncClient`."""

    async def ask() -> list[Answer]:
        async with AsyncClient(server.grpc, cache_dir=tmp_path / "codecs") as client:
            reader = LumenReader.from_pretrained(loop.reader, client, top_k=3)
            return await reader.aanswer(QUESTIONS, batch_size=2)

    wanted = LumenReader.from_pretrained(loop.reader, store, top_k=3).answer(QUESTIONS)
    assert _tokens(asyncio.run(ask())) == _tokens(wanted)


class SearchThenFetch:
    """A user's own source: passages first, then the memories of those that were published late
    enough, decoded by the server.
    """

    def __init__(self, client: Client, decoded: str | None) -> None:
        self.client = client
        self.decoded = decoded

    def query(
        self,
        query: str | np.ndarray,
        *,
        top_k: int = 8,
        where: str | None = None,
        collection: str = "default",
    ) -> QueryResult:
        """Search, then fetch."""
        found = self.client.search(query, top_k=top_k, where="year >= 2004", collection=collection)
        ids = [hit.passage_id for hit in found.hits]
        fetched = self.client.fetch(ids, collection=collection, decoded=self.decoded)
        return QueryResult(
            collection=collection,
            version=found.version,
            hits=found.hits,
            encoder_id=fetched.encoder_id,
            codec_id=fetched.codec_id,
            memories=fetched.memories,
        )

    def fetch(self, passage_ids: Sequence[str], *, collection: str = "default") -> FetchResult:
        """As the client."""
        return self.client.fetch(passage_ids, collection=collection)


@pytest.mark.parametrize("decoded", [None, "float32"])
def test_a_users_own_class_is_a_source(
    loop: Loop, store: Store, client: Client, decoded: str | None
) -> None:
    """Codes or decoded vectors on the wire; the passages are those that the class chose."""
    source = SearchThenFetch(client, decoded)
    answers = LumenReader.from_pretrained(loop.reader, source, top_k=3).answer(QUESTIONS)
    for answer, question in zip(answers, QUESTIONS, strict=True):
        found = store.query(question, top_k=3, where="year >= 2004")
        assert list(answer.token_ids) == _by_hand(loop.reader, found, question)
        assert all(int(passage.metadata["year"] or 0) >= 2004 for passage in answer.passages)


def test_a_folded_reader_wants_codes(loop: Loop, client: Client) -> None:
    """Vectors that the server decoded are of the basis that it was folded out of."""
    reader = LumenReader.from_pretrained(loop.folded, SearchThenFetch(client, "bfloat16"))
    with pytest.raises(CodecMismatchError, match="or came decoded"):
        reader.answer(QUESTIONS)


def test_an_empty_collection_is_answered_from_the_question(loop: Loop, tmp_path: Path) -> None:
    """When all passages have been deleted, none is claimed."""
    _encode(tmp_path / "store", loop.encoder, codec=str(loop.reader.parent / "codec"))
    store = open_store(tmp_path / "store")
    full = LumenReader.from_pretrained(loop.reader, store).answer(QUESTIONS)
    store.delete(where="year >= 0")
    answers = LumenReader.from_pretrained(loop.reader, store).answer(QUESTIONS)
    assert [answer.passages for answer in answers] == [()] * len(QUESTIONS)
    assert [a.token_ids for a in answers] != [a.token_ids for a in full]


def test_a_store_of_another_encoder_is_refused_when_the_reader_is_made(
    loop: Loop, tmp_path: Path, client: Client
) -> None:
    """The error says which encoder and codec the collection has, and from where; a collection that
    is not there is said to be missing, also over the wire.
    """
    other = save_t5(tmp_path / "t5", seed=1)
    _encode(tmp_path / "store", other)
    with pytest.raises(EncoderMismatchError) as failure:
        LumenReader.from_pretrained(loop.reader, open_store(tmp_path / "store"))
    message = str(failure.value)
    assert all(word in message for word in (str(other), "its encoder is", "its codec is"))
    with pytest.raises(CollectionNotFoundError):
        LumenReader.from_pretrained(loop.reader, client, collection="wiki")


def test_another_codec_is_refused(loop: Loop, tmp_path: Path) -> None:
    """The same encoder through a codec that the reader was not trained with."""
    _encode(tmp_path / "store", loop.encoder)
    with pytest.raises(CodecMismatchError, match="its codec is"):
        LumenReader.from_pretrained(loop.reader, open_store(tmp_path / "store"))


def test_a_collection_that_changes_under_a_reader_is_refused(loop: Loop, tmp_path: Path) -> None:
    """What was right when the reader was made is compared again with each answer."""
    codec_folder = str(loop.reader.parent / "codec")
    _encode(tmp_path / "store", loop.encoder, codec=codec_folder)
    store = open_store(tmp_path / "store")
    reader = LumenReader.from_pretrained(loop.reader, store)
    reader.answer(QUESTIONS[:1])
    other = save_t5(tmp_path / "t5", seed=1)
    _encode(tmp_path / "store", other, codec=codec_folder, mode="replace")
    with pytest.raises(EncoderMismatchError, match="its encoder is"):
        reader.answer(QUESTIONS[:1])


def test_a_reader_is_evaluated_as_it_is(loop: Loop, store: Store) -> None:
    """`evaluate_reader` asks it, and finds the documents that its answers rest on."""
    reader = LumenReader.from_pretrained(loop.reader, store, top_k=2)
    answers = reader.answer(QUESTIONS)
    questions = [
        Question(
            question_id=str(number),
            text=answer.question,
            answers=(answer.text,),
            provenance=(frozenset({answer.passages[0].document_id}),),
        )
        for number, answer in enumerate(answers)
    ]
    report = evaluate_reader(reader, questions, batch_size=2)
    means = {score.measure: score.mean for score in report.scores}
    assert means == {"EM": 1.0, "F1": 1.0, "R-precision": 1.0}


def test_a_reader_is_evaluated_by_a_command(
    loop: Loop, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the store it is mounted on; its answers are written, and score the same again."""
    answers = LumenReader.from_pretrained(loop.reader, store, top_k=2).answer(QUESTIONS)
    gold = write_jsonl(
        tmp_path / "gold.jsonl",
        [
            {"id": f"q{number}", "question": each.question, "answers": [each.text]}
            for number, each in enumerate(answers)
        ],
    )
    said = tmp_path / "said.jsonl"
    command = ["eval", "reading", str(gold), "--output", "json"]
    mounted = ["--reader", str(loop.reader), "--store", str(loop.store), "--top-k", "2"]
    assert run([*command, *mounted, "--predictions-file", str(said)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {name: each["mean"] for name, each in report["measures"].items()} == {"EM": 1, "F1": 1}
    pages = [json.loads(line)["output"][0]["provenance"] for line in said.read_text().splitlines()]
    assert pages[0][0]["wikipedia_id"] == answers[0].passages[0].document_id
    assert run(["eval", "reading", str(gold), str(said), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert run([*command, *mounted, str(said)]) == 2
    assert "PREDICTIONS are there already" in capsys.readouterr().err
    assert run(command) == 2
    assert "give one of PREDICTIONS and --reader" in capsys.readouterr().err
