"""Training a reader on memories, and what it answers from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from experiments.minilm_reader.batches import Batch, reading_batches
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

Remember = Callable[[Batch], torch.Tensor]
"""From a batch to its memories, (B, K, P, D)."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a reader made of Q questions: (Q,) each, EM and F1 from 0 to 1.

    `is_found`: the answer was taken from the passage that holds it.
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
    batches: Iterable[Batch],
    remembered: Remember,
    *,
    num_steps: int,
    rate: float,
    memory_rate: float = 0.0,
) -> float:
    """Train live layers and head, and the memory encoder's layers where it is not frozen.

    The question encoder stays as it is: trained on so little it loses its likeness to the memory
    encoder, on which all matching rests.

    Returns:
        Mean loss over the last tenth of the steps.
    """
    model.question_encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(_groups(model, rate, memory_rate), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / (_WARM_UP * num_steps), 1.0) * max(0.0, 1 - step / num_steps),
    )
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    losses = []
    model.train()
    model.question_encoder.eval()
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
    model.eval()
    return float(np.mean(losses[-max(1, num_steps // 10) :]))


@torch.inference_mode()
def read(model: ExtractiveLumen, material: Material, questions: Sequence[Question]) -> Reading:
    """Answer questions from a material's memories."""
    remembered = remember(material)
    em, scores, is_found = [], [], []
    batches = reading_batches(
        material, questions, batch_size=_BATCH_SIZE, num_passages=NUM_PASSAGES
    )
    rest = iter(questions)
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
            output = model(
                batch.question_ids,
                batch.question_mask,
                remembered(batch),
                batch.memory_mask,
                text_mask=batch.text_mask,
            )
        best = best_spans(output)
        passages = batch.passages.gather(1, best.passages[:, None])[:, 0].tolist()
        for passage, first, last in zip(
            passages, best.starts.tolist(), best.ends.tolist(), strict=True
        ):
            question = next(rest)
            answer = material.answer(passage, first, last)
            em.append(exact_match(answer, [question.answer]))
            scores.append(f1(answer, [question.answer]))
            is_found.append(passage == question.passage)
    return Reading(np.array(em), np.array(scores), np.array(is_found))


def _groups(model: ExtractiveLumen, rate: float, memory_rate: float) -> list[dict[str, object]]:
    heads = [
        *model.match.parameters(),
        *model.span_head.parameters(),
        *model.null_head.parameters(),
    ]
    groups: list[dict[str, object]] = [
        {"params": heads, "lr": rate * _HEAD_SPEED},
        {"params": list(model.live.parameters()), "lr": rate},
    ]
    if memory_rate:
        groups.append({"params": list(model.memory_encoder.layers.parameters()), "lr": memory_rate})
    return groups
