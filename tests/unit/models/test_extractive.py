"""Tests of memstore.models.extractive and extractive_spans."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.encoders.checkpoint import open_checkpoint
from memstore.encoders.tokens import load_tokenizer
from memstore.errors import ConfigError, CorruptionError, NotFoundError, ShapeError
from memstore.models.extractive import ExtractiveConfig, ExtractiveLumen
from memstore.models.extractive_spans import ExtractiveOutput, best_spans, token_spans
from memstore.types import Document
from tests.tiny import WORDS, save_encoder

assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
FIRST_WORD = 4  # ids 0 to 3 are special


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a BERT of three layers, 32 wide."""
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def model(encoder: Path) -> ExtractiveLumen:
    """Return it cut under the last layer, with heads of a fixed seed."""
    torch.manual_seed(0)
    return ExtractiveLumen.from_pretrained(encoder, live_fraction="1/3")


def _ids(*lengths: int, width: int | None = None, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return ids and mask of sequences of words with [CLS] and [SEP], filled up with padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), width or max(lengths)), 1)
    for row, length in zip(ids, lengths, strict=True):
        words = torch.randint(FIRST_WORD, len(WORDS), (length - 2,), generator=generator)
        row[:length] = torch.tensor([2, *words.tolist(), 3])
    return ids, ids != 1


def test_memories_are_those_that_the_store_keeps(model: ExtractiveLumen, encoder: Path) -> None:
    """The memory encoder gives what the encoder of the same cut gives."""
    options = EncoderOptions(source=str(encoder), live_fraction="1/3", window_tokens=16)
    passages = load_splitter(options).split(Document("d", "the whale rises over cold water", "sea"))
    (batch,) = load_encoder(options, device="cpu").encode(passages)
    ids = torch.from_numpy(passages[0].token_ids.astype(np.int64))[None]
    found = model.encode_memories(ids, torch.ones_like(ids))
    np.testing.assert_allclose(found[0].numpy(force=True), batch.memories, atol=1e-5)


def test_scores_do_not_depend_on_padding(model: ExtractiveLumen) -> None:
    """A passage scores the same alone, padded, and beside others that are not there."""
    question, question_mask = _ids(5)
    passage, passage_mask = _ids(7)
    memory = model.encode_memories(passage, passage_mask)[:, None]
    alone = model(question, question_mask, memory, passage_mask[:, None])
    wide, wide_mask = _ids(5, width=9)
    padded = torch.full((1, 2, 10, 32), torch.nan)
    padded[0, 1, :7] = memory[0, 0]
    mask = torch.zeros(1, 2, 10, dtype=torch.bool)
    mask[0, 1, :7] = True
    beside = model(wide, wide_mask, padded, mask)
    assert_close(beside.start_logits[0, 1, :7], alone.start_logits[0, 0])
    assert_close(beside.end_logits[0, 1, :7], alone.end_logits[0, 0])
    assert_close(beside.null_logits, alone.null_logits)
    assert bool(torch.isneginf(beside.start_logits[~mask]).all())


def test_questions_of_one_batch_do_not_see_each_other(model: ExtractiveLumen) -> None:
    """Questions of different lengths, with different passages, score as each does alone."""
    question, question_mask = _ids(4, 8, seed=1)
    passages, mask = _ids(6, 9, 9, 5, seed=2)
    memories = model.encode_memories(passages, mask).view(2, 2, 9, 32)
    mask = mask.view(2, 2, 9)
    together = model(question, question_mask, memories, mask)
    for row in range(2):
        some = slice(row, row + 1)
        alone = model(question[some], question_mask[some], memories[some], mask[some])
        assert_close(together.start_logits[some], alone.start_logits)
        assert_close(together.null_logits[some], alone.null_logits)


def test_live_layers_read_question_and_memory_together(model: ExtractiveLumen) -> None:
    """The scores are those of the live layers over the question's tokens and then the memory's,
    which say how near the nearest of the question's words is.
    """
    question, question_mask = _ids(5)
    passage, passage_mask = _ids(7)
    memory = model.encode_memories(passage, passage_mask)
    asked = model.encode_questions(question, question_mask)
    cosines = torch.cosine_similarity(memory[:, :, None], asked[:, None, 1:-1], dim=3)  # (1, 7, 3)
    told = memory + model.match(cosines.amax(2, keepdim=True))
    hidden = torch.cat([asked, told], 1)
    for layer in model.live:
        hidden = layer(hidden)
    wanted = model.span_head(hidden[:, 5:])
    found = model(question, question_mask, memory[:, None], passage_mask[:, None])
    assert_close(found.start_logits[:, 0], wanted[..., 0])
    assert_close(found.end_logits[:, 0], wanted[..., 1])
    assert_close(found.null_logits, model.null_head(hidden[:, 0])[:, 0])


def test_training_finds_answers_among_passages_and_their_absence(model: ExtractiveLumen) -> None:
    """After a few steps it names the passage and token that holds the question's word, or none."""
    words = torch.arange(FIRST_WORD, FIRST_WORD + 12).view(4, 3)  # a word is in one passage only
    passages = torch.cat([torch.full((4, 1), 2), words, torch.full((4, 1), 3)], 1)  # (4, 5)
    asked = torch.arange(FIRST_WORD, FIRST_WORD + 16)
    questions = torch.stack([torch.full_like(asked, 2), asked, torch.full_like(asked, 3)], 1)
    number = torch.arange(16)
    spans = torch.stack([number // 3, 1 + number % 3, 1 + number % 3], 1)
    spans[12:] = torch.tensor([-1, 0, 0])
    with torch.no_grad():
        memories = model.encode_memories(passages, torch.ones_like(passages)).expand(16, 4, 5, 32)
    masks = torch.ones_like(questions), torch.ones(16, 4, 5, dtype=torch.bool)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(120):
        output = model(questions, masks[0], memories, masks[1], spans=spans)
        assert output.loss is not None
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    found = best_spans(model(questions, masks[0], memories, masks[1]))
    has_answer = found.scores > found.null_scores
    assert has_answer.tolist() == [True] * 12 + [False] * 4
    named = torch.stack([found.passages, found.starts, found.ends], 1)
    assert torch.equal(named[:12], spans[:12])


def test_frozen_memory_encoder_has_no_dropout_and_no_gradient(model: ExtractiveLumen) -> None:
    """Training mode changes nothing about memories until the memory encoder is unfrozen."""
    ids, mask = _ids(9)
    quiet = model.encode_memories(ids, mask)
    assert torch.equal(model.train().encode_memories(ids, mask), quiet)
    assert not quiet.requires_grad
    model.unfreeze_memory_encoder()
    moved = model.encode_memories(ids, mask)
    assert moved.requires_grad
    assert not torch.equal(moved, quiet)


def test_saved_model_scores_the_same(model: ExtractiveLumen, encoder: Path, tmp_path: Path) -> None:
    """Weights and the cut come back; the tokenizer lies beside them."""
    config = ExtractiveConfig(model.config.backbone, 2)
    copied = ExtractiveLumen(config)
    copied.load_state_dict(model.state_dict())
    copied.save_pretrained(tmp_path / "saved", encoder / "tokenizer.json")
    loaded = ExtractiveLumen.from_pretrained(tmp_path / "saved")
    assert loaded.config == config
    assert not loaded.training
    ids, mask = _ids(6)
    memory = model.encode_memories(ids, mask)[:, None]
    output, again = (each(ids, mask, memory, mask[:, None]) for each in (model, loaded))
    assert torch.equal(output.start_logits, again.start_logits)
    assert torch.equal(output.null_logits, again.null_logits)
    assert not loaded.memory_encoder.embeddings.word_embeddings.weight.requires_grad
    saved, given = tmp_path / "saved" / "tokenizer.json", encoder / "tokenizer.json"
    assert saved.read_bytes() == given.read_bytes()


def test_refuses_folders_that_are_not_such_a_model(
    model: ExtractiveLumen, encoder: Path, tmp_path: Path
) -> None:
    """Another family, a missing tokenizer, a second cut, and a damaged config are named."""
    with pytest.raises(NotFoundError, match="no tokenizer"):
        model.save_pretrained(tmp_path / "none", tmp_path / "tokenizer.json")
    model.save_pretrained(tmp_path / "saved", encoder / "tokenizer.json")
    with pytest.raises(ConfigError, match="cut already"):
        ExtractiveLumen.from_pretrained(tmp_path / "saved", live_fraction="1/3")
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_frozen_layers": 1}))
    with pytest.raises(CorruptionError, match="weights"):
        ExtractiveLumen.from_pretrained(tmp_path / "saved")
    path.write_text(json.dumps({**config, "backbone": []}))
    with pytest.raises(CorruptionError, match=r"config\.json"):
        ExtractiveLumen.from_pretrained(tmp_path / "saved")
    with pytest.raises(ConfigError, match="'t5'"):
        ExtractiveLumen(ExtractiveConfig({"model_type": "t5"}, 0))


@pytest.mark.parametrize("live_fraction", ["0", "1/2"])
def test_refuses_a_cut_without_whole_live_layers(encoder: Path, live_fraction: str) -> None:
    """Half of three layers is no cut, and without a live layer there is no reader."""
    with pytest.raises(ConfigError):
        ExtractiveLumen.from_pretrained(encoder, live_fraction=live_fraction)


def test_everything_live_reads_embeddings(encoder: Path) -> None:
    """With live_fraction 1 the memories are the embeddings."""
    model = ExtractiveLumen.from_pretrained(encoder, live_fraction="1")
    ids, mask = _ids(6)
    memory = model.encode_memories(ids, mask)
    assert torch.equal(memory, model.memory_encoder.embeddings(ids))
    assert len(model.live) == 3


def test_question_without_passages_has_only_the_null_score(model: ExtractiveLumen) -> None:
    """No passages, or passages without tokens: a null score, and no place for a span."""
    ids, mask = _ids(6)
    none = model(ids, mask, torch.zeros(1, 0, 4, 32), torch.zeros(1, 0, 4))
    empty = model(ids, mask, torch.zeros(1, 2, 4, 32), torch.zeros(1, 2, 4))
    assert_close(none.null_logits, empty.null_logits)
    found = best_spans(empty)
    assert found.scores.item() == -torch.inf
    assert found.null_scores.item() == 0
    with pytest.raises(ShapeError, match="passages"):
        best_spans(none)


@pytest.mark.parametrize("span", [[0, 2, 1], [1, 0, 0], [0, 0, 6], [-2, 0, 0], [0, 0, 2]])
def test_refuses_spans_that_are_not_of_text(model: ExtractiveLumen, span: list[int]) -> None:
    """Ends before starts, places beyond the passages, and special tokens are refused."""
    ids, mask = _ids(6)
    memory = model.encode_memories(ids, mask)[:, None]
    text_mask = mask.clone()[:, None]
    text_mask[..., 0] = text_mask[..., -1] = False
    with pytest.raises(ShapeError, match="spans: row 0"):
        model(ids, mask, memory, mask[:, None], text_mask=text_mask, spans=torch.tensor([span]))


def test_best_span_is_the_likeliest_of_those_short_enough() -> None:
    """Ends before starts and long spans are passed over; passages compare by their logits."""
    start = torch.full((1, 2, 5), -1.0)
    end = start.clone()
    start[0, 0, 0], end[0, 0, 4] = 9.0, 9.0
    start[0, 1, 3], end[0, 1, 2], end[0, 1, 4] = 6.0, 8.0, 5.0
    output = ExtractiveOutput(start, end, torch.tensor([0.0]), None)
    long, short = best_spans(output), best_spans(output, max_tokens=2)
    assert [long.passages.item(), long.starts.item(), long.ends.item()] == [0, 0, 4]
    assert [short.passages.item(), short.starts.item(), short.ends.item()] == [1, 3, 4]
    assert long.scores.item() > short.scores.item() > long.null_scores.item()
    with pytest.raises(ConfigError, match="max_tokens"):
        best_spans(output, max_tokens=0)


def test_span_scores_are_log_probabilities(model: ExtractiveLumen) -> None:
    """Starts of all passages and null make 1 together, so one of each alone makes the loss."""
    ids, mask = _ids(3)
    memory = model.encode_memories(ids, mask)[:, None]
    text_mask = torch.tensor([[[False, True, False]]])
    output = model(
        ids, mask, memory, mask[:, None], text_mask=text_mask, spans=torch.tensor([[0, 1, 1]])
    )
    found = best_spans(output)
    assert output.loss is not None
    assert found.scores.item() == pytest.approx(-2 * output.loss.item(), abs=1e-5)


def test_token_spans_are_places_in_the_document(encoder: Path) -> None:
    """Every text token of every window names its word; special tokens and titles name nothing."""
    options = EncoderOptions(source=str(encoder), window_tokens=10)
    document = Document("d", "the cold  sea rises, and the ship in fog\nmen over ice", "storm")
    passages = load_splitter(options).split(document)
    tokenizer = load_tokenizer(open_checkpoint(str(encoder)))
    assert len(passages) > 1
    for each in passages:
        spans = token_spans(tokenizer, document.text, each.passage)
        assert spans.shape == (len(each.token_ids), 2)
        is_text = spans[:, 0] >= 0
        assert is_text.tolist() == [False, False, *[True] * (len(spans) - 3), False]
        words = [document.text[start:end] for start, end in spans[is_text]]
        wanted = [tokenizer.token_to_id(word) or 0 for word in words]
        assert wanted == each.token_ids[is_text].tolist()
        assert (spans[is_text][0, 0], spans[is_text][-1, 1]) == (
            each.passage.start,
            each.passage.end,
        )
    with pytest.raises(ShapeError, match="d#1"):
        token_spans(tokenizer, "another text", passages[1].passage)
