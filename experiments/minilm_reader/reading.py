"""Training a reader on memories, and what it answers from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.minilm_reader.batches import Batch, reading_batches, training_batches
from experiments.minilm_reader.material import Material, Question
from memstore.evaluation.reading import exact_match, f1
from memstore.models.extractive import ExtractiveLumen
from memstore.models.extractive_spans import best_spans

NUM_PASSAGES = 5  # that a question is answered from
_BATCH_SIZE = 8
_HEAD_SPEED = 5  # times the learning rate: the head starts from random weights
_WARM_UP = 0.1  # of the steps
# A wider product of bfloat16 than the processor has is emulated, at a tenth of the speed.
HAS_BFLOAT16 = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


@dataclass(frozen=True, slots=True)
class Training:
    """How long and how fast to train.

    Attributes:
        rate: AdamW's, of the live layers.
        num_epochs: how often each question comes.
        batch_size: questions a step.
        num_passages: of each question: the one with its answer, and distractors.
        memory_rate: AdamW's, of the memory encoder; 0: it is frozen.
    """

    rate: float
    num_epochs: int
    batch_size: int
    num_passages: int
    memory_rate: float = 0.0


Remember = Callable[[Batch], torch.Tensor]
"""From a batch to its memories, (B, K, P, D)."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a reader made of Q questions: (Q,) each, from 0 to 1.

    `is_found`: the answer was taken from the passage that holds the gold answer.
    """

    em: np.ndarray
    f1: np.ndarray
    is_found: np.ndarray


def remember(material: Material) -> Remember:
    """Return what looks a batch's memories up."""
    memories = torch.from_numpy(material.memories)
    return lambda batch: memories[batch.rows].float()


def train(
    model: ExtractiveLumen,
    material: Material,
    questions: Sequence[Question],
    remembered: Remember,
    training: Training,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Train live layers and head, and the memory encoder's layers where they have a rate.

    The question encoder stays as it is: trained on so little it loses its likeness to the memory
    encoder, on which all matching rests. There is no dropout: every question comes once or twice,
    drawing takes a third of the time, and a codebook is to follow memories as they will be stored.

    Returns:
        "steps", and "loss", the mean over the last tenth of them.
    """
    batches = [
        batch
        for _ in range(training.num_epochs)
        for batch in training_batches(
            material,
            questions,
            batch_size=training.batch_size,
            num_passages=training.num_passages,
            rng=rng,
        )
    ]
    model.requires_grad_(False)
    groups = _groups(model, training)
    parameters = [each for group in groups for each in group["params"]]
    for each in parameters:
        each.requires_grad_(True)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _slope(len(batches)))
    losses = []
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
            output = model(
                batch.question_ids,
                batch.question_mask,
                remembered(batch),
                batch.memory_mask,
                text_mask=batch.text_mask,
                spans=batch.spans,
            )
        assert output.loss is not None
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(output.loss.item())
    last = losses[-max(1, len(losses) // 10) :]
    return {"steps": len(losses), "loss": float(np.mean(last))}


@torch.inference_mode()
def read(model: ExtractiveLumen, material: Material, questions: Sequence[Question]) -> Reading:
    """Answer questions from a material's memories."""
    remembered = remember(material)
    answers = []
    for batch in reading_batches(
        material, questions, batch_size=_BATCH_SIZE, num_passages=NUM_PASSAGES
    ):
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
            output = model(
                batch.question_ids,
                batch.question_mask,
                remembered(batch),
                batch.memory_mask,
                text_mask=batch.text_mask,
            )
        best = best_spans(output)
        passages = batch.passages.gather(1, best.passages[:, None])[:, 0]
        places = zip(passages.tolist(), best.starts.tolist(), best.ends.tolist(), strict=True)
        answers += [(place[0], material.answer(*place)) for place in places]
    return score(questions, answers)


def score(questions: Sequence[Question], answers: Sequence[tuple[int, str]]) -> Reading:
    """Compare answers, each with the passage that it was taken from, with the gold ones."""
    pairs = list(zip(questions, answers, strict=True))
    return Reading(
        em=np.array([exact_match(answer, [each.answer]) for each, (_, answer) in pairs]),
        f1=np.array([f1(answer, [each.answer]) for each, (_, answer) in pairs]),
        is_found=np.array([float(passage == each.passage) for each, (passage, _) in pairs]),
    )


def _groups(model: ExtractiveLumen, training: Training) -> list[dict[str, Any]]:
    heads = [
        *model.match.parameters(),
        *model.span_head.parameters(),
        *model.null_head.parameters(),
    ]
    groups: list[dict[str, Any]] = [
        {"params": heads, "lr": training.rate * _HEAD_SPEED},
        {"params": list(model.live.parameters()), "lr": training.rate},
    ]
    if training.memory_rate:
        layers = list(model.memory_encoder.layers.parameters())
        groups.append({"params": layers, "lr": training.memory_rate})
    return groups


def _slope(num_steps: int) -> Callable[[int], float]:
    """Return the share of the learning rate by step: up for a tenth of the steps, then down."""
    warm_up = max(1.0, _WARM_UP * num_steps)
    return lambda step: min((step + 1) / warm_up, 1.0) * (1 - step / num_steps)
