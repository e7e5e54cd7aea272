"""One run: an arm's answers to the questions of a fold, or an arm's ranking of Cranfield."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from experiments.codec_quality.reader import overlap
from experiments.minilm_reader.arms import (
    ADAPTED,
    ALIGNMENT,
    CODEBOOK,
    GUESSED,
    JOINT,
    NOT_ALIGNED,
    NUM_FOLDS,
    RANDOM_SPAN,
    RANKING,
    RAW_BYTES,
)
from experiments.minilm_reader.guesses import most_shared_words, random_spans
from experiments.minilm_reader.joint import LiveMemories, encode_all, keep_pooled
from experiments.minilm_reader.material import Material, Question
from experiments.minilm_reader.reading import (
    HAS_BFLOAT16,
    Reading,
    Training,
    read,
    remember,
    train,
)
from experiments.minilm_reader.report import to_text
from experiments.minilm_reader.workshop import Workshop, fresh_reader
from memstore.codec import ProductCodec
from memstore.codec.quality import measure
from memstore.encoders import DEFAULT_SOURCE
from memstore.models.extractive import ExtractiveLumen
from memstore.models.vq import ProductVQ

_ADAPTING = Training(rate=1e-4, num_epochs=1, batch_size=8, num_passages=2)
_JOINTLY = replace(_ADAPTING, memory_rate=2e-5)
_POOLING = replace(_JOINTLY, batch_size=16)
_POOLED_PASSAGES = 1_600  # of the running text
_ALIGNMENT_QUESTIONS = 2_400
# MEMORY-VQ's 0.999 is for thousands of steps; here an epoch is about a hundred.
_DECAY = 0.99


def run(workshop: Workshop, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run found; its seconds include what it was the first to need."""
    began, cpu_began = time.perf_counter(), time.process_time()
    if key["task"] == RANKING:
        found = _rank(workshop, key["mode"], key["arm"], key["seed"])
    elif key["task"] == ALIGNMENT:
        found = _align(workshop, key["arm"], key["seed"])
    elif key["mode"] == GUESSED:
        found = _guess(workshop, key["arm"], key["fold"], key["seed"])
    else:
        found = _read(workshop, key)
    cpu = torch.cpu.get_capabilities()
    return {
        **found,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu_began, 1),
        "threads": torch.get_num_threads(),
        "machine": f"{cpu.get('cpu_name')}, {'bfloat16' if HAS_BFLOAT16 else 'float32'}",
    }


def _read(workshop: Workshop, key: Mapping[str, Any]) -> dict[str, Any]:
    mode, fold, seed = key["mode"], key["fold"], key["seed"]
    material, codec = workshop.xquad, workshop.codec(key["arm"], seed)
    reader, others = workshop.reader(fold, seed), workshop.others(fold)
    rng = np.random.default_rng([seed, fold])
    trained: dict[str, Any] = {}
    if mode in (JOINT, CODEBOOK):
        layer = None if codec is None else ProductVQ.from_codec(codec, decay=_DECAY)
        training = _JOINTLY if mode == JOINT else _ADAPTING
        live = LiveMemories(reader, material, layer)
        trained = train(reader, material, others, live, training, rng)
        codec = None if layer is None else layer.eval().to_codec()
        material = material.with_memories(encode_all(reader, material.token_ids, material.offsets))
    raw, material = material, decoded(material, codec)
    if mode == ADAPTED:
        trained = train(reader, material, others, remember(material), _ADAPTING, rng)
    questions = workshop.questions(fold)
    reading = read(reader, material, questions)
    lost = {"error": _error(raw, material, fold)}
    return _bytes(codec) | lost | trained | _scores(questions, reading)


def _guess(workshop: Workshop, name: str, fold: int, seed: int) -> dict[str, Any]:
    material, questions = workshop.xquad, workshop.questions(fold)
    if name == RANDOM_SPAN:
        return _scores(questions, random_spans(material, questions, seed))
    return _scores(questions, most_shared_words(material, questions))


def _rank(workshop: Workshop, mode: str, name: str, seed: int) -> dict[str, Any]:
    part, codec, ranking = workshop.cranfield, workshop.codec(name, seed), workshop.raw_ranking
    vectors, trained = part.vectors, {}
    if mode == JOINT and codec is not None:
        layer = ProductVQ.from_codec(codec, decay=_DECAY)
        model = ExtractiveLumen.from_pretrained(DEFAULT_SOURCE)
        live = LiveMemories(model, workshop.text, layer)
        trained = keep_pooled(live, _POOLING, _POOLED_PASSAGES, np.random.default_rng(seed))
        codec = layer.eval().to_codec()
        vectors = encode_all(model, part.token_ids, part.offsets)
    if codec is not None:
        records = codec.encode(vectors, part.token_ids, part.offsets)
        memories = codec.decode(records, part.offsets)
        ranking = workshop.ranker.rank(memories, part.offsets, part.owners)
    kept = overlap(ranking, workshop.raw_ranking)
    return _bytes(codec) | trained | {"ndcg@10": ranking.ndcg, "top 10 kept": kept}


def _align(workshop: Workshop, name: str, seed: int) -> dict[str, Any]:
    """Teach a reader on text for a while, with what aligns passage and question or without."""
    reader = fresh_reader(seed)
    if name == NOT_ALIGNED:
        reader.match = cast(nn.Linear, _Nothing())
    return workshop.teach_on_text(reader, _ALIGNMENT_QUESTIONS, seed)


class _Nothing(nn.Module):
    """Adds nothing to any memory token."""

    def forward(self, cosines: torch.Tensor) -> torch.Tensor:
        """Return zeros, from (R, L, 1)."""
        return torch.zeros_like(cosines)


def _bytes(codec: ProductCodec | None) -> dict[str, int]:
    if codec is None:
        return {"bytes_per_token": RAW_BYTES, "codec_bytes": 0}
    sizes = [len(content) for content in codec.files().values()]
    return {"bytes_per_token": 2 * codec.record_words, "codec_bytes": sum(sizes)}


def _error(raw: Material, material: Material, fold: int) -> float:
    """Return the squared error over the variance, of the passages that a fold asks about."""
    is_asked = np.repeat(raw.articles % NUM_FOLDS == fold, np.diff(raw.offsets))
    return measure([(raw.memories[is_asked], material.memories[is_asked])]).relative_mse


def _scores(questions: Sequence[Question], reading: Reading) -> dict[str, Any]:
    articles = Counter(each.article for each in questions)  # in order of appearance
    return {
        "em": float(reading.em.mean()),
        "f1": float(reading.f1.mean()),
        "found": float(reading.is_found.mean()),
        "questions_by_article": list(articles.values()),
        "em_by_question": to_text(reading.em),
        "f1_by_question": to_text(reading.f1),
    }


def decoded(material: Material, codec: ProductCodec | None) -> Material:
    """Return the material with its memories compressed and decompressed."""
    if codec is None:
        return material
    records = codec.encode(material.memories, material.token_ids, material.offsets)
    return material.with_memories(codec.decode(records, material.offsets))
