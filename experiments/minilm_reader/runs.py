"""One run: an arm's reader on a fold of the articles, or an arm's ranking of Cranfield."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.trec import read_cranfield
from experiments.codec_quality import activations
from experiments.codec_quality.__main__ import Part
from experiments.codec_quality.reader import CranfieldReader, overlap
from experiments.minilm_reader.arms import ARMS, AS_TRAINED, JOINT, NUM_FOLDS, RAW, RAW_BYTES
from experiments.minilm_reader.batches import Batch, training_batches
from experiments.minilm_reader.cloze import read_cloze
from experiments.minilm_reader.joint import LiveMemories, encode_all
from experiments.minilm_reader.material import Material, Question, read_xquad
from experiments.minilm_reader.reading import HAS_BFLOAT16, Remember, read, remember, train
from memstore.codec import ProductCodec
from memstore.encoders import DEFAULT_SOURCE, EncoderOptions, read_identity
from memstore.encoders.identity import plan_encoder
from memstore.models.extractive import ExtractiveLumen
from memstore.models.vq import ProductVQ

_CODEC_TOKENS = 130_000
_CLOZE = 8_000  # questions
_EPOCHS = 2
_ADAPTING_EPOCHS = 1
_RATE = {"cloze": 5e-4, "xquad": 2e-4, "adapting": 1e-4, "memory": 2e-5}
_BATCH_SIZE = {"cloze": 16, "xquad": 8}
_TRAINING_PASSAGES = {"cloze": 2, "xquad": 3}
# MEMORY-VQ's 0.999 is for thousands of steps; here an epoch is about a hundred.
_DECAY = 0.99

logger = logging.getLogger(__name__)


class Workshop:
    """What runs share; made when first asked for, and kept in a folder.

    Args:
        data: the evaluation data.
        cache: keeps memories, codecs and readers, 1.5 GB.
    """

    def __init__(self, data: Path, cache: Path) -> None:
        self.data, self.cache = data, cache
        cache.mkdir(parents=True, exist_ok=True)

    def run(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a run found."""
        began = time.perf_counter()
        found = self._rank(key) if key["task"] == "ranking" else self._read(key)
        cpu = torch.cpu.get_capabilities()
        return {
            **found,
            "seconds": round(time.perf_counter() - began, 1),
            "threads": torch.get_num_threads(),
            "machine": f"{cpu.get('cpu_name')}, {'bfloat16' if HAS_BFLOAT16 else 'float32'}",
        }

    def _read(self, key: Mapping[str, Any]) -> dict[str, Any]:
        name, fold, seed = key["arm"], key["fold"], key["seed"]
        reader, codec = self.reader(fold, seed), self.codec(name, seed)
        material, num_steps, loss = self.xquad, 0, None
        if key["mode"] == JOINT:
            layer = None if codec is None else ProductVQ.from_codec(codec, decay=_DECAY)
            num_steps, loss = self._adapt(reader, fold, seed, layer)
            codec = None if layer is None else layer.eval().to_codec()
            material = material.with_memories(encode_all(reader, material))
        material = decoded(material, codec)
        if key["mode"] not in (AS_TRAINED, JOINT):
            num_steps, loss = self._finetune(
                reader, material, fold, seed, "adapting", _ADAPTING_EPOCHS, remember(material)
            )
        reading = read(reader, material, questions_of(material, fold))
        return {
            "bytes_per_token": RAW_BYTES if codec is None else 2 * codec.record_words,
            "codec_bytes": 0 if codec is None else sum(map(len, codec.files().values())),
            "em": float(reading.em.mean()),
            "f1": float(reading.f1.mean()),
            "found": float(reading.is_found.mean()),
            "steps": num_steps,
            "loss": loss,
            "em_by_question": "".join(str(int(each)) for each in reading.em),
            "f1_by_question": [round(float(each), 3) for each in reading.f1],
        }

    def _rank(self, key: Mapping[str, Any]) -> dict[str, Any]:
        codec, part = self.codec(key["arm"], key["seed"]), self._cranfield
        memories = part.vectors
        if codec is not None:
            records = codec.encode(part.vectors, part.token_ids, part.offsets)
            memories = codec.decode(records, part.offsets)
        ranking = self._ranker.rank(memories, part.offsets, part.owners)
        return {
            "bytes_per_token": RAW_BYTES if codec is None else 2 * codec.record_words,
            "ndcg@10": ranking.ndcg,
            "top 10 kept": overlap(ranking, self._reference) if codec is not None else 1.0,
        }

    def codec(self, name: str, seed: int) -> ProductCodec | None:
        """Return an arm's codec, trained on text that is neither XQuAD nor Cranfield."""
        return None if name == RAW else self._codec(name, seed)

    @lru_cache(maxsize=1)  # noqa: B019 - the workshop lives as long as the process
    def _codec(self, name: str, seed: int) -> ProductCodec:
        folder = self.cache / "codecs" / f"{name} {seed}"
        if not folder.exists():
            arm, part = ARMS[name], self._sample(seed)
            began = time.perf_counter()
            codec = ProductCodec.train(
                part.vectors,
                num_subspaces=arm.num_subspaces,
                codebook_size=256,
                token_ids=part.token_ids,
                offsets=part.offsets,
                vocabulary=self._vocabulary,
                seed=seed,
                **arm.stages,
            )
            logger.info("codec %s: %.0f s", name, time.perf_counter() - began)
            codec.save(folder)
        return ProductCodec.load(folder)

    def reader(self, fold: int, seed: int) -> ExtractiveLumen:
        """Return the reader of raw memories that has not seen a fold's articles."""
        folder = self.cache / "readers" / f"fold {fold} seed {seed}"
        if not folder.exists():
            reader = self._taught_on_text(seed)
            self._finetune(reader, self.xquad, fold, seed, "xquad", _EPOCHS, remember(self.xquad))
            reader.save_pretrained(folder, plan_encoder(EncoderOptions()).checkpoint.tokenizer_file)
        torch.manual_seed(seed)  # of dropout, in what comes
        return ExtractiveLumen.from_pretrained(folder)

    def _taught_on_text(self, seed: int) -> ExtractiveLumen:
        folder = self.cache / "readers" / f"text seed {seed}"
        if not folder.exists():
            torch.manual_seed(seed)
            reader = ExtractiveLumen.from_pretrained(DEFAULT_SOURCE)
            identity = read_identity(EncoderOptions())
            reader.config = replace(reader.config, encoder_id=identity.id)
            rng = np.random.default_rng(seed)
            chosen = rng.permutation(len(self.text.questions))[:_CLOZE]
            questions = [self.text.questions[number] for number in chosen]
            batches = training_batches(
                self.text,
                questions,
                batch_size=_BATCH_SIZE["cloze"],
                num_passages=_TRAINING_PASSAGES["cloze"],
                rng=rng,
            )
            began = time.perf_counter()
            loss = train(
                reader,
                batches,
                remember(self.text),
                num_steps=_CLOZE // _BATCH_SIZE["cloze"],
                rate=_RATE["cloze"],
            )
            logger.info("taught on text: loss %.2f, %.0f s", loss, time.perf_counter() - began)
            reader.save_pretrained(folder, plan_encoder(EncoderOptions()).checkpoint.tokenizer_file)
        return ExtractiveLumen.from_pretrained(folder)

    def _adapt(
        self, reader: ExtractiveLumen, fold: int, seed: int, layer: ProductVQ | None
    ) -> tuple[int, float]:
        reader.unfreeze_memory_encoder()
        remembered = LiveMemories(reader, self.xquad, layer)
        return self._finetune(
            reader,
            self.xquad,
            fold,
            seed,
            "adapting",
            _ADAPTING_EPOCHS,
            remembered,
            _RATE["memory"],
        )

    def _finetune(
        self,
        reader: ExtractiveLumen,
        material: Material,
        fold: int,
        seed: int,
        rate: str,
        num_epochs: int,
        remembered: Remember,
        memory_rate: float = 0.0,
    ) -> tuple[int, float]:
        """Train on the questions of all other folds; return steps and final loss."""
        rng = np.random.default_rng([seed, fold])
        questions = [
            each
            for other in range(NUM_FOLDS)
            if other != fold
            for each in questions_of(material, other)
        ]
        batches: list[Batch] = []
        for _ in range(num_epochs):
            batches += training_batches(
                material,
                questions,
                batch_size=_BATCH_SIZE["xquad"],
                num_passages=_TRAINING_PASSAGES["xquad"],
                rng=rng,
            )
        torch.manual_seed(seed)
        loss = train(
            reader,
            batches,
            remembered,
            num_steps=len(batches),
            rate=_RATE[rate],
            memory_rate=memory_rate,
        )
        return len(batches), loss

    @cached_property
    def xquad(self) -> Material:
        """The questions that count."""
        return read_xquad(self.data, self.cache)

    @cached_property
    def text(self) -> Material:
        """Running text with questions made from it."""
        return read_cloze(self.data, self.cache)

    def _sample(self, seed: int) -> Part:
        text = self.text
        part = Part(text.memories, text.token_ids, text.offsets, text.articles)
        return part.some(_CODEC_TOKENS, seed)

    @cached_property
    def _vocabulary(self) -> np.ndarray:
        path = self.cache / "vocabulary.npy"
        if not path.exists():
            np.save(path, activations.encode_vocabulary())
        vocabulary: np.ndarray = np.load(path)
        return vocabulary

    @cached_property
    def _cranfield(self) -> Part:
        if not (self.cache / "cran.documents.npy").exists():
            activations.encode(read_cranfield(self.data).documents, self.cache / "cran")
        return Part.load(self.cache / "cran")

    @cached_property
    def _ranker(self) -> CranfieldReader:
        return CranfieldReader(self.data / "cranfield")

    @cached_property
    def _reference(self) -> Any:
        part = self._cranfield
        return self._ranker.rank(part.vectors, part.offsets, part.owners)


def questions_of(material: Material, fold: int) -> list[Question]:
    """Return the questions of every third article."""
    return [each for each in material.questions if each.article % NUM_FOLDS == fold]


def decoded(material: Material, codec: ProductCodec | None) -> Material:
    """Return the material with its memories compressed and decompressed."""
    if codec is None:
        return material
    records = codec.encode(material.memories, material.token_ids, material.offsets)
    return material.with_memories(codec.decode(records, material.offsets))
