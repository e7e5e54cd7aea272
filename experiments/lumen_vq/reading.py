"""How a T5 with random weights learns to read and to answer within minutes: FiD, the start of all.

Nothing pretrained is at hand, and a small Transformer that gets one answer for eight passages has
not learnt to look anything up after hours. Three things make it minutes: attention that starts as a
look-up, position biases that may move, and reciting many facts from passages read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import T5Config

from experiments.lumen_vq.language import PAD, Language
from experiments.lumen_vq.memories import quantize
from experiments.lumen_vq.sizes import Shape, Stage
from experiments.lumen_vq.task import Questions, ask, recite
from experiments.lumen_vq.world import World
from memstore.models.lumen import Lumen
from memstore.models.vq import ProductVQ

_WARM_UP = 100  # steps
_RECITED = 16  # facts of a set of passages
_IGNORED = -100


def new_reader(shape: Shape, language: Language, seed: int) -> Lumen:
    """Return a FiD that has learnt nothing."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(language.words),
        d_model=shape.dim,
        d_kv=shape.head_dim,
        d_ff=shape.ffn_dim,
        num_layers=shape.num_layers,
        num_decoder_layers=shape.num_decoder_layers,
        num_heads=shape.num_heads,
        dropout_rate=0.0,
        decoder_start_token_id=PAD,
    )
    model = Lumen.from_t5(config, live_fraction="1")
    for block in model.generator.encoder.block:
        _start_as_look_up(block.layer[0].SelfAttention, 0.5)
    for block in model.generator.decoder.block:
        _start_as_look_up(block.layer[1].EncDecAttention, 1.0)
    return model


@torch.no_grad()
def _start_as_look_up(attention: Any, sharpness: float) -> None:
    """Let queries find keys like themselves, and let what is found come out as it is: where the
    heads together are narrower than the model, so much louder as they are narrower.

    Source: mimetic initialization (arXiv 2305.09828), which copies what pretrained models do.
    """
    nn.init.orthogonal_(attention.k.weight)
    nn.init.orthogonal_(attention.v.weight)
    scale = sharpness * attention.key_value_proj_dim**-0.5
    attention.q.weight.copy_(attention.k.weight * scale)
    inner, dim = attention.v.weight.shape
    attention.o.weight.copy_(attention.v.weight.T * (dim / inner))


def learn_to_recite(model: Lumen, world: World, stage: Stage, seed: int) -> Iterator[float]:
    """Tell facts from passages without a question; yield the loss of every step.

    Each fact is a look-up by name and kind, and a set of passages read once serves for many: some
    50 times as many answers a second as questions give. Only what stands in the passages counts.
    """

    def loss(step: int, num_passages: int, count: int) -> torch.Tensor:
        sets = recite(
            world,
            count,
            num_passages=num_passages,
            num_facts=_RECITED,
            seed=_number(seed, step),
        )
        passages = _tensor(world.passage_ids[sets.passages], model)  # (B, K, P)
        facts, is_object = _tensor(sets.fact_ids, model), _tensor(sets.is_object, model)
        hidden = model.generator.encoder(
            input_ids=passages.flatten(0, 1), attention_mask=passages.flatten(0, 1) != PAD
        ).last_hidden_state
        output = model.generator(
            encoder_outputs=(hidden.reshape(count, -1, hidden.shape[-1]),),
            attention_mask=passages.flatten(1) != PAD,
            decoder_input_ids=nn.functional.pad(facts, (1, 0))[:, :-1],
            labels=torch.where(is_object.bool(), facts, _IGNORED),
        )
        found: torch.Tensor = output.loss
        return found

    return _optimize(model, stage, world.passage_ids.shape[1], loss)


def learn_to_answer(
    model: Lumen, world: World, stage: Stage, seed: int, bottleneck: ProductVQ | None = None
) -> Iterator[float]:
    """Answer questions from their passages; yield the loss of every step.

    With a bottleneck, memories are quantized on the way and its codebook follows them.
    """

    def loss(step: int, num_passages: int, count: int) -> torch.Tensor:
        questions = ask(world, count, num_passages=num_passages, seed=_number(seed, step))
        return answer_loss(model, world, questions, bottleneck)

    return _optimize(model, stage, world.passage_ids.shape[1], loss)


def answer_loss(
    model: Lumen, world: World, questions: Questions, bottleneck: ProductVQ | None = None
) -> torch.Tensor:
    """Return the mean cross-entropy of the answers, the passages encoded on the way."""
    asked = _tensor(questions.question_ids, model)
    passages = _tensor(world.passage_ids[questions.passages], model)  # (B, K, P)
    answers = _tensor(questions.answer_ids, model)
    rows = passages.flatten(0, 1)
    memories, commitment_loss = model.encode_memories(rows, rows != PAD), torch.zeros(())
    if bottleneck is not None:
        memories, commitment_loss = quantize(bottleneck, memories, rows)
    memories = memories.reshape(*passages.shape, -1)
    labels = torch.where(answers == PAD, _IGNORED, answers)
    found: torch.Tensor = model(asked, asked != PAD, memories, passages != PAD, labels).loss
    return found + commitment_loss.to(found.device)


@torch.inference_mode()
def encode_passages(model: Lumen, world: World, batch: int = 256) -> torch.Tensor:
    """Return the memories of a world's passages: (N, P, D); what padding holds does not count."""
    parts = []
    for first in range(0, len(world.passage_ids), batch):
        ids = _tensor(world.passage_ids[first : first + batch], model)
        parts.append(model.encode_memories(ids, ids != PAD))
    return torch.cat(parts)


@torch.inference_mode()
def is_answered(
    model: Lumen, world: World, questions: Questions, memories: torch.Tensor, batch: int = 8
) -> np.ndarray:
    """Say which questions greedy decoding answers to the last token: (Q,) bool.

    It does exactly if, at every step, the answer's token is the likeliest after the answer so far:
    one pass of the decoder instead of one a token.

    Args:
        model: that reads.
        world: asked about.
        questions: Q of them.
        memories: (N, P, D) of the world's passages, as stored.
        batch: questions at once.
    """
    found = []
    for first in range(0, len(questions), batch):
        part = questions[first : first + batch]
        asked, answers = _tensor(part.question_ids, model), _tensor(part.answer_ids, model)
        mask = _tensor(world.passage_ids[part.passages], model) != PAD
        read = memories[_tensor(part.passages, model)]  # (B, K, P, D)
        logits = model(asked, asked != PAD, read, mask, answers).logits
        found.append(((logits.argmax(-1) == answers) | (answers == PAD)).all(1).cpu().numpy())
    return np.concatenate(found)


def _optimize(
    model: Lumen, stage: Stage, width: int, loss: Callable[[int, int, int], torch.Tensor]
) -> Iterator[float]:
    optimizer = torch.optim.AdamW(
        _groups(model, stage.position_rate), betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0
    )
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step in range(stage.num_steps):
        share = min(1.0, (step + 1) / _WARM_UP) * max(0.05, 1 - step / stage.num_steps)
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * share * group["factor"]
        num_passages = stage.num_passages[step * len(stage.num_passages) // stage.num_steps]
        found = loss(step, num_passages, max(1, stage.tokens // (num_passages * width)))
        found.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad()
        yield float(found.detach())


def _groups(model: nn.Module, position_rate: float) -> list[dict[str, Any]]:
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    is_bias = [name.endswith("relative_attention_bias.weight") for name, _ in named]
    parts: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for (_, each), position in zip(named, is_bias, strict=True):
        parts[position].append(each)
    return [
        {"params": parts[False], "factor": 1.0},
        {"params": parts[True], "factor": position_rate},
    ]


def _tensor(array: np.ndarray, model: nn.Module) -> torch.Tensor:
    device = next(model.parameters()).device
    return torch.from_numpy(array.astype(np.int64)).to(device, non_blocking=True)


def _number(seed: int, step: int) -> int:
    """Return a seed of its own for each step under each seed."""
    return seed * 1_000_003 + step
