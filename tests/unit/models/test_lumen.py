"""LUMEN is FiD with the encoder cut in two: equal to it where it must be, trained as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from memstore.errors import (
    ShapeError,
)
from memstore.models.lumen import Lumen
from tests.tiny_t5 import (
    DIM,
    LABELS,
    NUM_LAYERS,
    PASSAGES,
    QUESTIONS,
    make_batch,
    make_t5,
    pad,
    save_t5,
    t5_config,
)

FRACTIONS = ["1", "2/3", "1/3", "0"]


@pytest.fixture(scope="module", params=[False, True], ids=["v1.0", "v1.1"])
def t5_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of either variant."""
    return save_t5(tmp_path_factory.mktemp("t5") / "t5", is_gated=request.param)


def _t5(folder: Path) -> Any:
    return make_t5(is_gated="gated-gelu" in (folder / "config.json").read_text())


def _bottom(t5: Any, ids: list[int], count: int) -> torch.Tensor:
    """What the first `count` of T5's encoder layers make of one sequence: (T, D)."""
    states = t5.encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states
    hidden: torch.Tensor = states[count][0]
    return hidden


def _by_hand(t5: Any, question: list[int], passage: list[int], num_frozen: int) -> torch.Tensor:
    """Run T5's layers on one question and passage, cut after `num_frozen`: (Q + P, D)."""
    hidden = torch.cat([_bottom(t5, ids, num_frozen) for ids in (question, passage) if ids])[None]
    length = hidden.shape[1]
    bias = t5.encoder.block[0].layer[0].SelfAttention.compute_bias(length, length)
    for block in t5.encoder.block[num_frozen:]:
        hidden = block(hidden, None, bias)[0]
    if num_frozen < NUM_LAYERS:  # else the hidden states above are normalized
        hidden = t5.encoder.final_layer_norm(hidden)
    return hidden[0]


def _expected_logits(t5: Any, num_frozen: int, passages: list[list[list[int]]]) -> list[Any]:
    logits = []
    for question, row, labels in zip(QUESTIONS, passages, LABELS, strict=True):
        parts = [_by_hand(t5, question, passage, num_frozen) for passage in row or [[]]]
        states = BaseModelOutput(last_hidden_state=torch.cat(parts)[None])
        logits.append(t5(encoder_outputs=states, labels=labels[None]).logits[0])
    return logits


def _assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_all_layers_live_is_fusion_in_decoder(t5_folder: Path) -> None:
    """The whole T5 encoder on each [question; passage], unpadded, one at a time: same logits."""
    t5 = _t5(t5_folder)
    model = Lumen.from_pretrained(t5_folder, live_fraction="1")

    output = model(*make_batch(model), LABELS)

    for question, passages, labels, logits in zip(
        QUESTIONS, PASSAGES, LABELS, output.logits, strict=True
    ):
        encoded = [t5.encoder(torch.tensor([question + each]))[0] for each in passages]
        states = BaseModelOutput(last_hidden_state=torch.cat(encoded, 1))
        wanted = t5(encoder_outputs=states, labels=labels[None])
        _assert_close(logits, wanted.logits[0])


@torch.no_grad()
def test_all_layers_live_answers_as_t5_does(t5_folder: Path) -> None:
    """With one passage FiD is T5 on [question; passage]: the same ids, greedy and by beams."""
    t5 = _t5(t5_folder)
    model = Lumen.from_pretrained(t5_folder, live_fraction="1")
    passages = [row[:1] for row in PASSAGES]
    joined = [question + row[0] for question, row in zip(QUESTIONS, passages, strict=True)]
    ids, mask = pad(joined, 20)

    for num_beams in (1, 3):
        got = model.generate(*make_batch(model, passages), max_new_tokens=6, num_beams=num_beams)
        wanted = t5.generate(ids, attention_mask=mask, max_new_tokens=6, num_beams=num_beams)
        assert torch.equal(got, wanted[:, 1:])


@pytest.mark.parametrize("live_fraction", FRACTIONS)
@torch.no_grad()
def test_a_cut_model_is_the_layers_run_by_hand(t5_folder: Path, live_fraction: str) -> None:
    """Question and passage apart below the cut, together above it, and the norm on top."""
    model = Lumen.from_pretrained(t5_folder, live_fraction=live_fraction)

    logits = model(*make_batch(model), LABELS).logits

    wanted = _expected_logits(_t5(t5_folder), model.config.num_frozen_layers, PASSAGES)
    for got, expected in zip(logits, wanted, strict=True):
        _assert_close(got, expected)


@torch.no_grad()
def test_generated_ids_are_the_likeliest_at_each_step(t5_folder: Path) -> None:
    """The cache changes nothing: a pass over the whole answer prefers each of its ids."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2")
    batch = make_batch(model)

    answers = model.generate(*batch, max_new_tokens=7)

    likeliest = model(*batch, answers).logits.argmax(-1)
    for answer, choice in zip(answers.tolist(), likeliest.tolist(), strict=True):
        length = answer.index(1) + 1 if 1 in answer else len(answer)
        assert answer[:length] == choice[:length]


@torch.no_grad()
def test_passages_without_tokens_do_not_matter(t5_folder: Path) -> None:
    """Fewer passages found than asked for; what lies in their place, a NaN, is not read."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2")
    ids, mask, memories, memory_mask = make_batch(model)
    more = torch.cat([memories, torch.full((2, 3, 11, DIM), torch.nan)], 1)
    more[~torch.nn.functional.pad(memory_mask, (0, 0, 0, 3))] = torch.nan
    more_mask = torch.nn.functional.pad(memory_mask, (0, 0, 0, 3))

    got = model(ids, mask, more, more_mask, LABELS)

    _assert_close(got.logits, model(ids, mask, memories, memory_mask, LABELS).logits)


@pytest.mark.parametrize("shape", [(2, 0, 11), (2, 2, 0), (2, 2, 11)])
@torch.no_grad()
def test_no_passage_at_all_leaves_the_question(
    t5_folder: Path, shape: tuple[int, int, int]
) -> None:
    """Nothing found, or passages of no tokens: the question alone is read and answered."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2")
    ids, mask = pad(QUESTIONS, 8)
    memories, memory_mask = torch.zeros(*shape, DIM), torch.zeros(shape, dtype=torch.bool)

    logits = model(ids, mask, memories, memory_mask, LABELS).logits

    for got, wanted in zip(logits, _expected_logits(_t5(t5_folder), 3, [[], []]), strict=True):
        _assert_close(got, wanted)
    assert len(model.generate(ids, mask, memories, memory_mask, max_new_tokens=3)) == 2


@torch.no_grad()
def test_a_row_without_passages_is_answered_beside_one_with(t5_folder: Path) -> None:
    """In one batch, each as if it were alone."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2")
    passages: list[list[list[int]]] = [[], PASSAGES[1]]

    logits = model(*make_batch(model, passages), LABELS).logits

    for got, wanted in zip(logits, _expected_logits(_t5(t5_folder), 3, passages), strict=True):
        _assert_close(got, wanted)


def _grads(module: Any) -> set[bool]:
    return {
        parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        for name, parameter in module.named_parameters()
        if "embed" not in name
    }


def test_the_gradient_reaches_all_but_the_memory_encoder(t5_folder: Path) -> None:
    """Frozen by default; the memories it gives carry no gradient either."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2").train()

    model(*make_batch(model), LABELS).loss.backward()

    assert model.is_memory_encoder_frozen
    assert not any(each.requires_grad for each in model.memory_encoder.parameters())
    assert _grads(model.memory_encoder) == {False}
    for part in (model.question_encoder, model.generator.encoder, model.generator.decoder):
        assert _grads(part) == {True}


def test_an_unfrozen_memory_encoder_learns(t5_folder: Path) -> None:
    """The gradient goes through the memories, its table of embeddings included."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2").train()

    model.unfreeze_memory_encoder()
    model(*make_batch(model), LABELS).loss.backward()

    assert not model.is_memory_encoder_frozen
    assert _grads(model.memory_encoder) == {True}
    assert bool(model.memory_encoder.embed_tokens.weight.grad.abs().sum() > 0)


def test_a_frozen_memory_encoder_has_no_dropout(t5_folder: Path) -> None:
    """Its memories are the stored ones while the rest trains; once unfrozen it drops like it."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2")
    memories = make_batch(model)[2]

    model.train()
    assert torch.equal(make_batch(model)[2], memories)
    assert model.question_encoder.training

    model.unfreeze_memory_encoder()
    assert not torch.equal(make_batch(model)[2], memories)


def test_with_all_layers_live_one_table_serves_all(t5_folder: Path) -> None:
    """FiD trains the embeddings of passages, questions and answers as one, as T5 does."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1")

    model(*make_batch(model), LABELS).loss.backward()

    table = model.generator.shared.weight
    assert model.memory_encoder.embed_tokens.weight is table
    assert model.question_encoder.embed_tokens.weight is table
    assert bool(table.grad.abs().sum() > 0)


@pytest.mark.parametrize("live_fraction", FRACTIONS)
def test_training_and_answers_work_in_bfloat16(t5_folder: Path, live_fraction: str) -> None:
    """Under autocast, with memories as a codec decodes them."""
    model = Lumen.from_pretrained(t5_folder, live_fraction=live_fraction)
    with torch.autocast("cpu", torch.bfloat16):
        ids, mask, memories, memory_mask = make_batch(model)
        batch = (ids, mask, memories.bfloat16(), memory_mask)
        rounded = model(*batch, LABELS).loss
        model.train()(*batch, LABELS).loss.backward()
        answers = model.eval().generate(*batch, max_new_tokens=3)

    assert _grads(model.generator.decoder) == {True}
    assert len(answers) == 2
    exact = model(ids, mask, memories.float(), memory_mask, LABELS).loss
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0)


def test_random_weights_make_a_model_to_train() -> None:
    """A config without a start token gets T5's: the padding."""
    config = t5_config(decoder_start_token_id=None)
    model = Lumen.from_t5(config, live_fraction="1/2")

    loss = model(*make_batch(model), LABELS).loss

    assert model.training
    assert bool(loss.isfinite())
    assert model.generator.config.decoder_start_token_id == 0


@pytest.mark.parametrize(
    ("memories", "memory_mask", "message"),
    [
        ((2, 3, 5, 8), (2, 3, 5), "of width 8, wanted 2 of width 16"),
        ((1, 3, 5, 16), (1, 3, 5), "got 1 questions' passages"),
        ((2, 3, 5, 16), (2, 3, 4), r"with a mask \(2, 3, 4\)"),
        ((6, 5, 16), (6, 5), r"wanted \(B, K, P, D\)"),
        ((2, 3, 16), (2, 3, 5), r"wanted \(B, K, P, D\)"),
    ],
)
def test_memories_of_another_shape_are_refused(
    t5_folder: Path, memories: tuple[int, ...], memory_mask: tuple[int, ...], message: str
) -> None:
    """Another encoder's width, another batch, a mask that is not theirs, no passages' axis."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2")

    with pytest.raises(ShapeError, match=message):
        model.generate(*pad(QUESTIONS, 8), torch.zeros(memories), torch.ones(memory_mask))


def test_a_question_without_tokens_is_refused(t5_folder: Path) -> None:
    """There is nothing to answer, and nothing to attend to."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2")
    ids, mask, memories, memory_mask = make_batch(model)
    mask[1] = False

    with pytest.raises(ShapeError, match="got one without tokens"):
        model.generate(ids, mask, memories, memory_mask)


def test_a_question_mask_of_another_length_is_refused(t5_folder: Path) -> None:
    """Before the live layers run."""
    model = Lumen.from_pretrained(t5_folder, live_fraction="1/2")
    ids, mask, memories, memory_mask = make_batch(model)
    questions = model.encode_questions(ids, mask)

    with pytest.raises(ShapeError, match=r"questions: got \(2, 8, 16\) with a mask \(2, 7\)"):
        model.fuse(questions, mask[:, 1:], memories, memory_mask)
