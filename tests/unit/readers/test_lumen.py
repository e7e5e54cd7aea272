"""A reader over a user's own source: what it reads, what it refuses, what it leaves behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memstore.codec import ProductCodec
from memstore.errors import (
    CodecMismatchError,
    ConfigError,
    EncoderMismatchError,
    InvalidInputError,
    NotFoundError,
    PassageNotFoundError,
)
from memstore.models.folding import fold_rotation
from memstore.models.lumen import Lumen
from memstore.readers import LumenReader, Timings
from memstore.types import Memory, MemorySource, QueryResult
from tests.tiny_t5 import DIM, save_t5
from tests.unit.readers.material import (
    CODEC_ID,
    ENCODER_ID,
    SHAPE,
    ListSource,
    make_codec,
    make_memory,
    save_reader,
)

PATIENCE_S = 30.0
QUESTIONS = ["the ship in the storm", "ice", "a cold sea over the mast", "whale", "lamp and bell"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader that is pinned to what `ListSource` says of itself."""
    made = tmp_path_factory.mktemp("reader")
    return save_reader(made, encoder_id=ENCODER_ID, codec_id=CODEC_ID)


@pytest.fixture(scope="module")
def codec() -> ProductCodec:
    """A codec that turns the basis."""
    return make_codec(rotation="pca")


@pytest.fixture
def source(codec: ProductCodec) -> ListSource:
    """Three passages of 6, 2 and 9 tokens."""
    return ListSource([make_memory(i, num, codec) for i, num in enumerate([6, 2, 9])])


@pytest.fixture
def reader(folder: Path, source: ListSource) -> LumenReader:
    """The reader over that source."""
    return LumenReader.from_pretrained(folder, source)


def _num_threads() -> int:
    return sum(thread.name.startswith("memstore-reader") for thread in threading.enumerate())


def _by_hand(folder: Path, question: str, memories: Sequence[Memory]) -> list[int]:
    """Answer one question with `Lumen.generate` on memories that were decoded one by one."""
    from memstore.text import load_tokenizer

    model = Lumen.from_pretrained(folder)
    question_ids = torch.tensor([load_tokenizer(folder / "tokenizer.json").encode(question).ids])
    longest = max((memory.num_tokens for memory in memories), default=0)
    vectors = torch.zeros(1, len(memories), longest, DIM)
    mask = torch.zeros(1, len(memories), longest)
    for number, memory in enumerate(memories):
        vectors[0, number, : memory.num_tokens] = memory.to_torch(dtype="float32")
        mask[0, number, : memory.num_tokens] = 1
    ids = model.generate(question_ids, torch.ones_like(question_ids), vectors, mask)[0].tolist()
    return ids[: ids.index(1)] if 1 in ids else ids


def test_it_answers_as_the_model_does_on_decoded_memories(
    folder: Path, source: ListSource, reader: LumenReader
) -> None:
    """The same ids, question by question; the passages are the source's."""
    answers = reader.answer(QUESTIONS)
    assert [answer.question for answer in answers] == QUESTIONS
    for answer in answers:
        assert list(answer.token_ids) == _by_hand(folder, answer.question, source.memories)
        assert [passage.passage_id for passage in answer.passages] == ["doc#0", "doc#1", "doc#2"]
    assert len({answer.token_ids for answer in answers}) > 1
    assert all(len(answer.text.split()) <= len(answer.token_ids) for answer in answers)


def test_answers_do_not_depend_on_the_batch(reader: LumenReader) -> None:
    """One at a time, two at a time, or all together: the same ids."""
    alone = reader.answer(QUESTIONS, batch_size=1)
    assert reader.answer(QUESTIONS, batch_size=2) == alone
    assert reader.answer(QUESTIONS, batch_size=8) == alone


def test_answers_come_from_the_passages(
    folder: Path, source: ListSource, reader: LumenReader
) -> None:
    """With one passage other answers come than with three: nothing here passes by chance."""
    few = LumenReader.from_pretrained(folder, source, top_k=1)
    assert [a.token_ids for a in few.answer(QUESTIONS)] != [
        a.token_ids for a in reader.answer(QUESTIONS)
    ]
    assert {len(answer.passages) for answer in few.answer(QUESTIONS)} == {1}


def test_without_passages_the_question_is_answered_alone(folder: Path) -> None:
    """No passage is claimed; the model has read the question."""
    reader = LumenReader.from_pretrained(folder, ListSource([]))
    answers = reader.answer(QUESTIONS)
    for answer in answers:
        assert answer.passages == ()
        assert list(answer.token_ids) == _by_hand(folder, answer.question, [])


def test_a_passage_without_tokens_changes_nothing(
    folder: Path, source: ListSource, reader: LumenReader, codec: ProductCodec
) -> None:
    """It is not read, and not among the passages of the answer."""
    wanted = [answer.token_ids for answer in reader.answer(QUESTIONS)]
    empty = Memory("doc#9", np.empty((0, codec.record_words), np.uint16), codec)
    source.memories = [source.memories[0], empty, *source.memories[1:]]
    answers = LumenReader.from_pretrained(folder, source).answer(QUESTIONS)
    assert [answer.token_ids for answer in answers] == wanted
    assert all(len(answer.passages) == 3 for answer in answers)


def test_a_folded_reader_answers_alike(
    folder: Path, source: ListSource, reader: LumenReader, codec: ProductCodec, tmp_path: Path
) -> None:
    """Saved and loaded with the codec's rotation in its weights, it is given rotated vectors."""
    assert codec.rotation is not None
    folded = fold_rotation(Lumen.from_pretrained(folder), codec.rotation.matrix())
    folded.save_pretrained(tmp_path / "folded", folder / "tokenizer.json")
    answers = LumenReader.from_pretrained(tmp_path / "folded", source).answer(QUESTIONS)
    assert answers == reader.answer(QUESTIONS)


def test_a_device_that_is_not_there_is_refused(folder: Path, source: ListSource) -> None:
    """By its name."""
    with pytest.raises(ConfigError, match="got 'nonsense', wanted one that torch sees"):
        LumenReader.from_pretrained(folder, source, device="nonsense")


def test_a_reader_that_is_not_pinned_says_so(
    folder: Path, source: ListSource, caplog: pytest.LogCaptureFixture
) -> None:
    """It reads whatever is as wide as its model."""
    model = Lumen.from_pretrained(folder)
    model.config = replace(model.config, encoder_id="")
    LumenReader(model, folder / "tokenizer.json", source)
    assert "not pinned to an encoder" in caplog.text


def test_it_runs_in_the_dtype_asked_for(folder: Path, source: ListSource) -> None:
    """In bfloat16 memories are decoded to bfloat16, and answers come."""
    reader = LumenReader.from_pretrained(folder, source, dtype="bfloat16", device="cpu")
    assert all(answer.token_ids for answer in reader.answer(QUESTIONS, max_new_tokens=4))


def test_answers_come_batch_by_batch_while_the_next_is_fetched(
    reader: LumenReader, source: ListSource
) -> None:
    """When the first batch has been read, the questions of the second are asked already."""
    seen: list[bool] = []
    stream = reader.stream(
        QUESTIONS,
        batch_size=2,
        on_batch=lambda _: seen.append(source.asked[QUESTIONS[2]].wait(PATIENCE_S)),
    )
    assert next(stream).question == QUESTIONS[0]
    assert seen == [True]
    stream.close()
    assert len(source.questions) == 4
    assert _num_threads() == 0


def test_a_failing_query_comes_up_in_its_place(reader: LumenReader, source: ListSource) -> None:
    """Answers of the batches before it are given out; nothing is asked after it."""
    source.failing = [QUESTIONS[3]]
    stream = reader.stream(QUESTIONS, batch_size=1)
    got: list[str] = []
    with pytest.raises(PassageNotFoundError):
        got.extend(answer.question for answer in stream)
    assert got == QUESTIONS[:3]
    assert source.questions == QUESTIONS[:4]
    assert _num_threads() == 0


def test_a_failing_model_leaves_no_thread(reader: LumenReader) -> None:
    """Whatever goes wrong with a batch that is there, the one under way is waited for."""

    def fail(_timings: Timings) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reader.answer(QUESTIONS, batch_size=1, on_batch=fail)
    assert _num_threads() == 0


def test_timings_count_what_was_read(reader: LumenReader) -> None:
    """One value a batch; they add up."""
    timings: list[Timings] = []
    reader.answer(QUESTIONS, batch_size=2, on_batch=timings.append)
    assert [each.num_questions for each in timings] == [2, 2, 1]
    total = sum(timings, Timings())
    assert (total.num_questions, total.num_tokens) == (5, 5 * 17)
    stages = (total.retrieve_s, total.decode_s, total.live_s, total.decoder_s)
    assert min(stages) > 0
    assert total.live_s == pytest.approx(sum(each.live_s for each in timings))


def test_no_questions_have_no_answers(reader: LumenReader, source: ListSource) -> None:
    """And nobody is asked."""
    assert reader.answer([]) == []
    assert asyncio.run(reader.aanswer([])) == []
    assert source.questions == []


def test_an_event_loop_gets_the_same_answers(
    folder: Path, reader: LumenReader, source: ListSource
) -> None:
    """From a source that blocks, and from one that is awaited."""
    wanted = reader.answer(QUESTIONS)

    class Awaited:
        """A user's own source for an event loop."""

        async def query(
            self,
            query: str | np.ndarray,
            *,
            top_k: int = 8,
            where: str | None = None,
            collection: str = "default",
        ) -> QueryResult:
            await asyncio.sleep(0)
            return source.query(query, top_k=top_k, where=where, collection=collection)

    awaiting = LumenReader.from_pretrained(folder, Awaited())
    assert asyncio.run(reader.aanswer(QUESTIONS, batch_size=2)) == wanted
    assert asyncio.run(awaiting.aanswer(QUESTIONS, batch_size=2)) == wanted
    with pytest.raises(ConfigError, match="await aanswer"):
        awaiting.answer(QUESTIONS)
    source.failing = [QUESTIONS[3]]
    for each in (reader, awaiting):
        with pytest.raises(PassageNotFoundError):
            asyncio.run(each.aanswer(QUESTIONS, batch_size=2))


def test_a_source_of_other_make_is_refused_before_anything_is_decoded(
    folder: Path, source: ListSource
) -> None:
    """Even if it cannot say what it holds until it is asked."""

    class Broken:
        """A codec that must not be used."""

        id, dim, record_words, needs_token_ids = CODEC_ID, DIM, 2, False

        def encode(self, *_: object, **__: object) -> np.ndarray:
            raise AssertionError

        decode = encode

    source.memories = [Memory("doc#0", np.zeros((1, 2), np.uint16), Broken())]
    reader = LumenReader.from_pretrained(folder, source)
    source.codec_id = "f" * 64
    with pytest.raises(CodecMismatchError, match="codec is ffffffffffffffff…, wanted cccc"):
        reader.answer(QUESTIONS)
    source.encoder_id = "f" * 64
    with pytest.raises(EncoderMismatchError, match="encoder is ffffffffffffffff…, wanted eeee"):
        asyncio.run(reader.aanswer(QUESTIONS))
    assert source.questions == [QUESTIONS[0], QUESTIONS[0]]


def test_memories_of_another_width_are_refused(folder: Path) -> None:
    """Whatever ids they carry."""
    wide = make_codec(dim=32)
    reader = LumenReader.from_pretrained(folder, ListSource([make_memory(0, 3, wide)]))
    with pytest.raises(EncoderMismatchError, match="memories are 32 wide, wanted 16"):
        reader.answer(QUESTIONS)


def test_a_source_must_give_a_memory_for_every_hit(folder: Path, source: ListSource) -> None:
    """A user's class that loses one is told so."""

    class Losing(ListSource):
        """Forgets a hit."""

        def query(self, query: str | np.ndarray, **options: Any) -> QueryResult:
            found = source.query(query, **options)
            fields = {name: getattr(found, name) for name in QueryResult.__dataclass_fields__}
            return QueryResult(**{**fields, "hits": found.hits[1:]})

    reader = LumenReader.from_pretrained(folder, Losing([]))
    with pytest.raises(InvalidInputError, match="2 hits and 3 memories"):
        reader.answer(QUESTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size is 0"), ({"max_new_tokens": 0}, "max_new_tokens 0")],
)
def test_numbers_below_one_are_refused(
    reader: LumenReader, options: dict[str, int], message: str
) -> None:
    """Before a question is asked."""
    with pytest.raises(ConfigError, match=message):
        reader.answer(QUESTIONS, **options)  # type: ignore[arg-type]


def test_all_questions_are_checked_before_one_is_asked(
    reader: LumenReader, source: ListSource
) -> None:
    """A bad one in the last batch stops the first."""
    with pytest.raises(ConfigError, match="question 5 is empty"):
        reader.stream([*QUESTIONS, " "], batch_size=1)
    with pytest.raises(ConfigError, match="wanted at most 512"):
        asyncio.run(reader.aanswer([*QUESTIONS, "sea " * 600], batch_size=1))
    assert source.questions == []


def test_bad_options_are_refused(folder: Path, source: ListSource) -> None:
    """top_k below 1 and dtypes that a model does not run in."""
    with pytest.raises(ConfigError, match="top_k is 0; wanted 1 or more"):
        LumenReader.from_pretrained(folder, source, top_k=0)
    with pytest.raises(ConfigError, match="dtype: got 'float16', wanted bfloat16 or float32"):
        LumenReader.from_pretrained(folder, source, dtype="float16")


def test_a_folder_must_hold_a_model_and_its_tokenizer(
    folder: Path, source: ListSource, tmp_path: Path
) -> None:
    """Saved without a tokenizer, or nothing there at all."""
    Lumen.from_pretrained(folder).save_pretrained(tmp_path / "bare", None)
    with pytest.raises(ConfigError, match=r"no tokenizer\.json; save the model with"):
        LumenReader.from_pretrained(tmp_path / "bare", source)
    with pytest.raises(NotFoundError):
        LumenReader.from_pretrained(tmp_path / "nowhere", source)


def test_a_fresh_t5_reads_too(source: ListSource, tmp_path: Path) -> None:
    """A T5 checkpoint is cut when it is loaded; it has no pins."""
    t5 = save_t5(tmp_path / "t5", num_layers=3, **SHAPE)
    assert len(LumenReader.from_pretrained(t5, source).answer(QUESTIONS)) == len(QUESTIONS)


def test_the_protocol_is_what_a_users_class_fulfils(source: ListSource) -> None:
    """The type checker takes a user's class for a `MemorySource`."""
    taken: MemorySource = source
    assert taken.query("sea", top_k=1).memories == tuple(source.memories[:1])
