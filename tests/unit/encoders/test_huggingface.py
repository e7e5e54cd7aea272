"""Passages in, memories and retrieval vectors out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from memstore.encoders import EncoderOptions, load_encoder, load_splitter, read_identity
from memstore.encoders.huggingface import CPU_TOKEN_BUDGET
from memstore.encoders.sources import resolve_source
from memstore.errors import ConfigError, MissingDependencyError, ShapeError
from memstore.types import Document, EncodedBatch, QuestionEncoder, TokenizedPassage

SaveCheckpoint = Callable[..., Path]
MakePassages = Callable[..., list[TokenizedPassage]]
TEXTS = ["Every map needs four colours only.", "The cold sea.", "Who proved the theorem?"]


@pytest.fixture(scope="module")
def minilm() -> QuestionEncoder:
    """The embedded default encoder, on the CPU."""
    return load_encoder(EncoderOptions(), device="cpu")


def _bytes(batches: list[EncodedBatch]) -> list[tuple[list[int], bytes, bytes, bytes]]:
    return [
        (b.rows, b.memories.tobytes(), b.offsets.tobytes(), b.embeddings.tobytes()) for b in batches
    ]


def test_minilm_equals_a_plain_transformers_pass(minilm: QuestionEncoder) -> None:
    """Memory = hidden_states[4]; vector = masked mean of the top, scaled to unit length."""
    folder = resolve_source(EncoderOptions().source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs, output_hidden_states=True)
    mask = inputs["attention_mask"].bool()
    splitter = load_splitter(EncoderOptions())
    passages = [splitter.split(Document(str(i), text))[0] for i, text in enumerate(TEXTS)]

    (batch,) = minilm.encode(passages)

    for row, start, end in zip(batch.rows, batch.offsets, batch.offsets[1:], strict=False):
        expected = output.hidden_states[4][row][mask[row]]
        np.testing.assert_allclose(batch.memories[start:end], expected, atol=2e-5)
    means = torch.stack(
        [top[m].mean(0) for top, m in zip(output.last_hidden_state, mask, strict=True)]
    )
    expected = torch.nn.functional.normalize(means, dim=1)[batch.rows]
    np.testing.assert_allclose(batch.embeddings, expected, atol=1e-6)
    np.testing.assert_allclose(minilm.embed(TEXTS)[batch.rows], expected, atol=1e-6)


def test_embeddings_have_unit_length_and_order(minilm: QuestionEncoder) -> None:
    """Row i is text i, whatever the batches; an empty text and an over-long one have one too."""
    texts = ["", *TEXTS, "sea " * 2000]

    vectors = minilm.embed(texts)

    assert vectors.shape == (5, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[2], minilm.embed(TEXTS[1:2])[0], atol=1e-6)


def test_no_texts_give_no_vectors(minilm: QuestionEncoder) -> None:
    """The shape is right even when it is empty."""
    assert minilm.embed([]).shape == (0, 384)


def test_no_passages_give_no_batches(minilm: QuestionEncoder) -> None:
    """An empty partition is no error."""
    assert list(minilm.encode([])) == []


def test_passage_without_tokens_is_refused(
    minilm: QuestionEncoder, make_passages: MakePassages
) -> None:
    """It would have no memory and no direction."""
    with pytest.raises(ShapeError, match="without tokens"):
        list(minilm.encode(make_passages([0])))


def test_identity_is_that_of_the_options(minilm: QuestionEncoder) -> None:
    """The loaded encoder and the torch-free reading agree."""
    assert minilm.identity == read_identity(EncoderOptions())


def test_cls_pooling_takes_the_first_token(
    save_checkpoint: SaveCheckpoint, make_passages: MakePassages
) -> None:
    """With live_fraction 0 the memory is the top, so its first row is the vector."""
    folder = save_checkpoint("bert")
    (folder / "modules.json").write_text('[{"type": "x.Pooling", "path": "1_Pooling"}]')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    options = EncoderOptions(source=str(folder), live_fraction="0")

    (batch,) = load_encoder(options, device="cpu").encode(make_passages([7]))

    first = batch.memories[0] / np.linalg.norm(batch.memories[0])
    np.testing.assert_allclose(batch.embeddings[0], first, atol=1e-6)


@pytest.mark.parametrize("model_type", ["bert", "t5"])
def test_encoding_a_partition_twice_gives_the_same_bytes(
    save_checkpoint: SaveCheckpoint, make_passages: MakePassages, model_type: str
) -> None:
    """A shard that is made again after a kill is the same shard; also by a fresh encoder."""
    options = EncoderOptions(source=str(save_checkpoint(model_type)))
    lengths = np.random.default_rng(1).integers(1, 32, 300).tolist()
    passages = make_passages(lengths)
    encoder = load_encoder(options, device="cpu")

    first = list(encoder.encode(passages))
    again = list(encoder.encode(passages))
    fresh = list(load_encoder(options, device="cpu").encode(passages))

    assert len(first) > 1
    assert _bytes(first) == _bytes(again) == _bytes(fresh)


def test_batches_cover_the_partition_within_the_budget(
    save_checkpoint: SaveCheckpoint, make_passages: MakePassages
) -> None:
    """Every passage comes out once, with as many memory rows as it has tokens."""
    options = EncoderOptions(source=str(save_checkpoint("t5")))
    lengths = np.random.default_rng(2).integers(1, 32, 300).tolist()

    batches = list(load_encoder(options, device="cpu").encode(make_passages(lengths)))

    rows = [row for batch in batches for row in batch.rows]
    sizes = [size for batch in batches for size in np.diff(batch.offsets).tolist()]
    assert sorted(rows) == list(range(300))
    assert sizes == [lengths[row] for row in rows]
    assert max(len(b.rows) * max(np.diff(b.offsets)) for b in batches) <= CPU_TOKEN_BUDGET


def test_another_retriever_reads_the_text_with_its_own_tokenizer(
    save_checkpoint: SaveCheckpoint, make_passages: MakePassages
) -> None:
    """Memories are the encoder's, vectors the retriever's; questions and passages agree."""
    retriever = EncoderOptions(source=str(save_checkpoint("bert", hidden_size=16)))
    source = str(save_checkpoint("t5"))
    passages = make_passages([9, 5, 12])
    alone = load_encoder(EncoderOptions(source=source), device="cpu")
    encoder = load_encoder(EncoderOptions(source=source, retriever=retriever.source), device="cpu")

    (batch,) = encoder.encode(passages)

    (expected,) = alone.encode(passages)
    texts = [passages[row].passage.text for row in batch.rows]
    vectors = load_encoder(retriever, device="cpu").embed(texts)
    assert batch.memories.tobytes() == expected.memories.tobytes()
    np.testing.assert_allclose(batch.embeddings, vectors, atol=1e-6)
    np.testing.assert_allclose(encoder.embed(texts), vectors, atol=1e-6)


def test_a_question_is_read_as_a_passage_is(minilm: QuestionEncoder) -> None:
    """Its vector is that of `embed`, its memory that of a passage of the same words."""
    splitter = load_splitter(EncoderOptions())

    for text in TEXTS:
        vector, memory = minilm.question(text)

        (batch,) = minilm.encode(splitter.split(Document("question", text)))
        np.testing.assert_allclose(vector, minilm.embed([text])[0], atol=1e-6)
        np.testing.assert_allclose(memory, batch.memories, atol=1e-5)


def test_another_retriever_embeds_a_question_that_the_encoder_reads(
    save_checkpoint: SaveCheckpoint,
) -> None:
    """The tokens of the memory are those of the encoder's own tokenizer."""
    retriever = EncoderOptions(source=str(save_checkpoint("bert", hidden_size=16)))
    options = EncoderOptions(source=str(save_checkpoint("t5")), retriever=retriever.source)
    encoder = load_encoder(options, device="cpu")

    vector, memory = encoder.question("the sea rises")

    (passage,) = load_splitter(options).split(Document("question", "the sea rises"))
    (batch,) = encoder.encode([passage])
    np.testing.assert_allclose(vector, encoder.embed(["the sea rises"])[0], atol=1e-6)
    np.testing.assert_allclose(memory, batch.memories, atol=1e-5)


def test_threads_may_share_an_encoder(minilm: QuestionEncoder) -> None:
    """A server embeds questions from many threads while it encodes."""
    splitter = load_splitter(EncoderOptions())
    passages = [splitter.split(Document(str(i), text))[0] for i, text in enumerate(TEXTS)]
    expected = _bytes(list(minilm.encode(passages)))

    with ThreadPoolExecutor(4) as pool:
        embeds = [pool.submit(minilm.embed, TEXTS) for _ in range(8)]
        encodes = [pool.submit(lambda: list(minilm.encode(passages))) for _ in range(8)]

    assert all(_bytes(future.result()) == expected for future in encodes)
    assert len({future.result().tobytes() for future in embeds}) == 1


def test_unknown_device_is_refused() -> None:
    """A device that torch does not see is a wrong option, not a crash."""
    with pytest.raises(ConfigError, match="encoder device: got 'cuda:77'"):
        load_encoder(EncoderOptions(), device="cuda:77")


def test_missing_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch the error says what to install."""
    for name in ("torch", "memstore.encoders.huggingface", "memstore.encoders.stack"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("memstore.encoders.huggingface", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(MissingDependencyError, match=r"needs torch.*memstore\[models\]"):
        load_encoder(EncoderOptions())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_gpu_agrees_with_cpu_to_bfloat16(save_checkpoint: SaveCheckpoint, family: str) -> None:
    """bfloat16 on a GPU stays within its precision of float32 on a CPU."""
    options = EncoderOptions(source=str(save_checkpoint(family)), window_tokens=32)
    splitter = load_splitter(options)
    passages = [splitter.split(Document(str(i), text))[0] for i, text in enumerate(TEXTS)]
    (expected,) = load_encoder(options, device="cpu").encode(passages)

    (batch,) = load_encoder(options, device="cuda").encode(passages)

    error = np.linalg.norm(batch.memories - expected.memories)
    assert error / np.linalg.norm(expected.memories) < 0.02
    assert (batch.embeddings * expected.embeddings).sum(1).min() > 0.999
