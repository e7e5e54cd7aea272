"""Documents in, memories of their passages out: each has seen the whole document."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from memstore.encoders import EncoderOptions, load_encoder, load_splitter, read_identity
from memstore.encoders.checkpoint import open_checkpoint
from memstore.encoders.longvq import CPU_TOKEN_BUDGET
from memstore.encoders.stack import EncoderStack
from memstore.errors import (
    ConfigError,
    CorruptionError,
    FormatVersionError,
    InvalidInputError,
    ShapeError,
)
from memstore.models.longvq import LongVQ
from memstore.models.longvq_block import LongVQBlock
from memstore.models.longvq_config import Attention
from memstore.types import Document, EncodedBatch, QuestionEncoder, TokenizedPassage
from tests.tiny import WORDS
from tests.tiny_longvq_encoder import DIM, NUM_LAYERS, save_longvq

SaveCheckpoint = Callable[..., Path]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that looks both ways."""
    return save_longvq(tmp_path_factory.mktemp("longvq") / "model")


def _options(folder: Path, **changes: object) -> EncoderOptions:
    values = {"source": str(folder), "window_tokens": 8, **changes}
    return EncoderOptions(**values)  # type: ignore[arg-type]


def _words(count: int, *, seed: int = 0) -> list[str]:
    words: list[str] = np.random.default_rng(seed).choice(WORDS, count).tolist()
    return words


def _passages(options: EncoderOptions, *texts: str) -> list[TokenizedPassage]:
    splitter = load_splitter(options)
    return [
        each
        for number, text in enumerate(texts)
        for each in splitter.split(Document(f"d{number}", text, "lamp"))
    ]


def _ids(passages: list[TokenizedPassage]) -> np.ndarray:
    return np.concatenate([each.token_ids for each in passages])


def _read(folder: Path, ids: np.ndarray, num_blocks: int) -> np.ndarray:
    """What one pass over the whole text gives after so many blocks, block by block."""
    model = LongVQ.from_pretrained(folder)
    with torch.inference_mode():
        hidden = model.embedding(torch.from_numpy(ids.astype(np.int64))[None])
        for block in list(model.blocks)[:num_blocks]:
            assert isinstance(block, LongVQBlock)
            assert block.quantizer is not None
            hidden = block(hidden, None, block.quantizer.centroids()).hidden
        if num_blocks == len(model.blocks):
            hidden = model.norm(hidden)
        rows: np.ndarray = hidden[0].numpy()
    return rows


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit


def _memories(encoder: QuestionEncoder, passages: list[TokenizedPassage]) -> list[np.ndarray]:
    """The memory of each passage, in the order given."""
    found: dict[int, np.ndarray] = {}
    for batch in encoder.encode(passages):
        found |= dict(zip(batch.rows, np.split(batch.memories, batch.offsets[1:-1]), strict=True))
    return [found[row] for row in range(len(passages))]


def _bytes(batches: list[EncodedBatch]) -> list[tuple[list[int], bytes, bytes, bytes]]:
    return [
        (b.rows, b.memories.tobytes(), b.offsets.tobytes(), b.embeddings.tobytes()) for b in batches
    ]


@pytest.mark.parametrize(("live_fraction", "num_blocks"), [("0", 3), ("1/3", 2), ("1", 0)])
def test_memories_are_the_rows_of_one_pass_over_the_document(
    folder: Path, live_fraction: str, num_blocks: int
) -> None:
    """From the output ("0") to the embeddings ("1"); vectors are means of the output's rows."""
    options = _options(folder, live_fraction=live_fraction)
    passages = _passages(options, " ".join(_words(45)))
    ids = _ids(passages)

    (batch,) = load_encoder(options, device="cpu").encode(passages)

    assert len(passages) == 6
    assert batch.offsets.tolist() == [0, 8, 16, 24, 32, 40, 46]
    np.testing.assert_allclose(batch.memories, _read(folder, ids, num_blocks), atol=TOLERANCE)
    top = _read(folder, ids, NUM_LAYERS)
    for row, (start, end) in enumerate(zip(batch.offsets, batch.offsets[1:], strict=False)):
        expected = _unit(top[start:end].mean(axis=0))
        np.testing.assert_allclose(batch.embeddings[row], expected, atol=TOLERANCE)


def test_the_last_word_of_a_document_changes_its_first_passage(
    folder: Path, tmp_path: Path
) -> None:
    """Far beyond windows and bias; a causal model is not told of what comes later."""
    text = _words(200)
    one, other = " ".join([*text, "whale"]), " ".join([*text, "ice"])
    causal = save_longvq(tmp_path / "causal", is_causal=True)
    change = {}

    for source in (folder, causal):
        options = _options(source)
        encoder = load_encoder(options, device="cpu")
        first, *_, last = _memories(encoder, _passages(options, one))
        same_first, *_, same_last = _memories(encoder, _passages(options, other))
        change[source] = np.abs(first - same_first).max(), np.abs(last - same_last).max()

    assert min(change[folder]) > 10 * TOLERANCE
    assert change[causal][0] == 0
    assert change[causal][1] > 10 * TOLERANCE


def test_documents_in_a_batch_do_not_see_each_other(folder: Path) -> None:
    """Beside longer and shorter ones a document has the memories that it has alone."""
    options = _options(folder)
    encoder = load_encoder(options, device="cpu")
    texts = [" ".join(_words(count, seed=count)) for count in (3, 40, 1, 17, 90)]

    together = _memories(encoder, _passages(options, *texts))

    alone = []
    for text in texts:
        alone += _memories(encoder, _passages(options, text))
    assert len(alone) == len(together) == 23
    for memory, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(memory, expected, atol=TOLERANCE)


def test_encoding_a_partition_twice_gives_the_same_bytes(folder: Path) -> None:
    """In several batches of whole documents, by the same encoder and by a fresh one."""
    options = _options(folder)
    counts = np.random.default_rng(1).integers(1, 120, 200).tolist()
    passages = _passages(options, *(" ".join(_words(n, seed=n)) for n in counts))
    encoder = load_encoder(options, device="cpu")

    first = list(encoder.encode(passages))
    again = list(encoder.encode(passages))
    fresh = list(load_encoder(options, device="cpu").encode(passages))

    assert len(first) > 1
    assert sorted(row for batch in first for row in batch.rows) == list(range(len(passages)))
    assert max(len(batch.memories) for batch in first) <= CPU_TOKEN_BUDGET
    assert _bytes(first) == _bytes(again) == _bytes(fresh)


def test_threads_may_share_an_encoder(folder: Path) -> None:
    """A server embeds questions from many threads while it encodes."""
    options = _options(folder)
    encoder = load_encoder(options, device="cpu")
    passages = _passages(options, " ".join(_words(30)), "the cold sea")
    expected = _bytes(list(encoder.encode(passages)))

    with ThreadPoolExecutor(4) as pool:
        questions = [pool.submit(encoder.question, "north wind") for _ in range(8)]
        encodes = [pool.submit(lambda: list(encoder.encode(passages))) for _ in range(8)]

    assert all(_bytes(future.result()) == expected for future in encodes)
    assert len({future.result()[1].tobytes() for future in questions}) == 1


def test_every_token_of_the_vocabulary_is_read_alone(folder: Path) -> None:
    """Not as one text of all words: each has the memory of a question of that word."""
    options = _options(folder)
    encoder, vocabulary = load_encoder(options, device="cpu"), load_splitter(options).vocabulary()

    memories = _memories(encoder, vocabulary)

    assert {len(memory) for memory in memories} == {1}
    for token_id in (3, 20, len(vocabulary) - 1):
        _, expected = encoder.question(WORDS[token_id - 3])
        np.testing.assert_allclose(memories[token_id], expected, atol=TOLERANCE)


def test_a_question_is_read_as_a_document_of_its_own(folder: Path) -> None:
    """Its memory is that of a document of the same words without title, its vector of `embed`."""
    options = _options(folder, template="{text}")
    encoder = load_encoder(options, device="cpu")
    text = " ".join(_words(20))

    vector, memory = encoder.question(text)

    passages = _passages(options, text)
    np.testing.assert_allclose(memory, np.concatenate(_memories(encoder, passages)), atol=TOLERANCE)
    np.testing.assert_allclose(vector, encoder.embed(["ice", text])[1], atol=TOLERANCE)
    np.testing.assert_allclose(np.linalg.norm(vector), 1, atol=TOLERANCE)
    assert encoder.embed([]).shape == (0, DIM)


@pytest.mark.parametrize("taken", [slice(1, None), slice(0, -1), slice(0, None, 2)])
def test_a_part_of_a_document_is_refused(folder: Path, taken: slice) -> None:
    """Without beginning, end or middle its memories would be others; the document is named."""
    options = _options(folder)
    encoder = load_encoder(options, device="cpu")
    whole = _passages(options, "ice", " ".join(_words(30)))

    with pytest.raises(InvalidInputError, match=r"document 'd1': got .* reads documents whole"):
        list(encoder.encode([whole[0], *whole[1:][taken]]))


def test_pooled_memories_are_means_of_consecutive_tokens(folder: Path) -> None:
    """Never across passages: what is left of one is a span of its own. Vectors are as they were."""
    options = _options(folder, pool_tokens=3)
    passages = _passages(options, " ".join(_words(20)), "fog")
    plain = _options(folder)
    (whole,) = load_encoder(plain, device="cpu").encode(
        _passages(plain, " ".join(_words(20)), "fog")
    )

    (batch,) = load_encoder(options, device="cpu").encode(passages)

    assert [len(each.token_ids) for each in passages] == [8, 8, 5, 2]
    assert [each.passage.num_tokens for each in passages] == [3, 3, 2, 1]
    assert batch.offsets.tolist() == [0, 3, 6, 8, 9]
    spans = np.split(whole.memories, [3, 6, 8, 11, 14, 16, 19, 21])
    expected = np.stack([span.mean(axis=0) for span in spans])
    np.testing.assert_allclose(batch.memories, expected, atol=TOLERANCE)
    np.testing.assert_array_equal(batch.embeddings, whole.embeddings)
    assert len(load_encoder(options, device="cpu").question("the cold sea")[1]) == 3


def test_another_retriever_reads_the_text_of_each_passage(
    folder: Path, save_checkpoint: SaveCheckpoint
) -> None:
    """Memories are those of the documents, with the blocks above them dropped."""
    retriever = EncoderOptions(source=str(save_checkpoint("bert")), window_tokens=8)
    text = "the sea rises over the cold water and the ship"
    alone = _options(folder)
    options = _options(folder, retriever=retriever.source)
    passages = _passages(options, text)
    encoder = load_encoder(options, device="cpu")

    (batch,) = encoder.encode(passages)

    texts = [f"lamp {each.passage.text}" for each in passages]
    expected = _memories(load_encoder(alone, device="cpu"), _passages(alone, text))
    np.testing.assert_array_equal(batch.memories, np.concatenate(expected))
    vectors = load_encoder(retriever, device="cpu").embed(texts)
    np.testing.assert_allclose(batch.embeddings, vectors, atol=TOLERANCE)
    np.testing.assert_allclose(encoder.question(texts[0])[0], vectors[0], atol=TOLERANCE)


@pytest.mark.parametrize("live_fraction", ["0", "1"])
def test_dropping_the_top_leaves_the_memory_as_it_was(
    folder: Path, save_checkpoint: SaveCheckpoint, live_fraction: str
) -> None:
    """With another retriever, at either end of the model."""
    retriever = str(save_checkpoint("bert"))
    whole = _options(folder, live_fraction=live_fraction)
    cut = _options(folder, live_fraction=live_fraction, retriever=retriever)

    expected = _memories(load_encoder(whole, device="cpu"), _passages(whole, "the cold sea"))
    memories = _memories(load_encoder(cut, device="cpu"), _passages(cut, "the cold sea"))

    np.testing.assert_array_equal(memories[0], expected[0])


def test_a_document_of_64k_tokens_is_read_whole(tmp_path: Path) -> None:
    """One batch, every token once; its first memories depend on its last word."""
    options = _options(save_longvq(tmp_path / "model", window=64), window_tokens=512)
    encoder = load_encoder(options, device="cpu")
    text = _words(65_535)
    passages = _passages(options, " ".join(text))

    (batch,) = encoder.encode(passages)
    (other,) = encoder.encode(_passages(options, " ".join([*text[:-1], "whale" * 2])))

    assert (len(passages), batch.memories.shape) == (128, (65_536, DIM))
    assert not np.array_equal(batch.memories[:512], other.memories[:512])
    assert np.isfinite(batch.memories).all()


def test_a_document_that_memory_does_not_allow_is_named_with_its_size(tmp_path: Path) -> None:
    """Full attention over 64k tokens would take 100 GiB and more: refused before it is tried."""
    options = _options(save_longvq(tmp_path / "full", attention=Attention.FULL))
    encoder = load_encoder(options, device="cpu")
    passages = _passages(options, "fog", " ".join(_words(120_000)))

    with pytest.raises(
        ConfigError, match=r"document 'd1' of 120,001 tokens.* GiB on cpu"
    ) as caught:
        list(encoder.encode(passages))

    assert caught.value.details["document_id"] == "d1"
    assert int(caught.value.details["wanted_bytes"]) > 100 << 30


@pytest.mark.parametrize("ids", [[], [99], [-1]])
def test_tokens_that_the_model_cannot_read_are_refused(folder: Path, ids: list[int]) -> None:
    """No tokens at all, and ids beyond the vocabulary."""
    options = _options(folder)
    (passage,) = _passages(options, "fog")

    with pytest.raises(ShapeError, match=r"without tokens|ids from .* to"):
        list(
            load_encoder(options, device="cpu").encode(
                [TokenizedPassage(passage.passage, np.array(ids, np.int32))]
            )
        )


def test_a_question_without_tokens_is_refused(folder: Path) -> None:
    """There are no special tokens that would stand for it."""
    encoder = load_encoder(_options(folder), device="cpu")

    with pytest.raises(ShapeError, match="without tokens"):
        encoder.embed([" "])


def test_no_passages_give_no_batches(folder: Path) -> None:
    """An empty partition is no error."""
    assert list(load_encoder(_options(folder), device="cpu").encode([])) == []


def test_identity_is_that_of_the_options(folder: Path) -> None:
    """The loaded encoder and the torch-free reading agree."""
    options = _options(folder, pool_tokens=2)

    assert load_encoder(options, device="cpu").identity == read_identity(options)


def test_damaged_and_newer_checkpoints_are_refused(tmp_path: Path) -> None:
    """Half a weight file is corruption; a format of a later version says so."""
    folder = save_longvq(tmp_path / "model")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"format": 1', '"format": 2'))
    with pytest.raises(FormatVersionError, match="upgrade"):
        load_encoder(_options(folder), device="cpu")
    (folder / "config.json").write_text(config)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])

    with pytest.raises(CorruptionError):
        load_encoder(_options(folder), device="cpu")


def test_transformers_is_not_asked_to_load_it(folder: Path) -> None:
    """What wants a Hugging Face encoder says that this is none."""
    with pytest.raises(ConfigError, match="'memstore-longvq', wanted one that transformers loads"):
        EncoderStack(open_checkpoint(str(folder)), device="cpu")
