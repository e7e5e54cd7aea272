"""What runs share: passages with memories, codecs, and readers of raw memories."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.trec import read_cranfield
from experiments.codec_quality import activations
from experiments.codec_quality.__main__ import Part
from experiments.codec_quality.reader import CranfieldReader, Ranking
from experiments.minilm_reader.arms import ARMS, NUM_FOLDS, RAW
from experiments.minilm_reader.cloze import read_cloze
from experiments.minilm_reader.material import Material, Question, read_xquad
from experiments.minilm_reader.reading import Training, remember, train
from memstore.codec import ProductCodec
from memstore.encoders import DEFAULT_SOURCE, EncoderOptions, read_identity
from memstore.encoders.identity import plan_encoder
from memstore.models.extractive import ExtractiveLumen

_CLOZE_QUESTIONS = 8_000
_ON_CLOZE = Training(rate=5e-4, num_epochs=1, batch_size=16, num_passages=2)
_ON_XQUAD = Training(rate=2e-4, num_epochs=2, batch_size=8, num_passages=2)

logger = logging.getLogger(__name__)


class Workshop:
    """Makes things when they are first asked for, and keeps them in a folder.

    Args:
        data: the evaluation data.
        cache: the folder; 1.5 GB. It is of this data and this code: with others, take another.
    """

    def __init__(self, data: Path, cache: Path) -> None:
        self.data, self.cache = data, cache
        cache.mkdir(parents=True, exist_ok=True)

    @cached_property
    def xquad(self) -> Material:
        """The questions that count."""
        return read_xquad(self.data, self.cache)

    @cached_property
    def text(self) -> Material:
        """Running text with questions made from it: of no article of XQuAD, and not Cranfield."""
        return read_cloze(self.data, self.cache)

    @cached_property
    def cranfield(self) -> Part:
        """The abstracts that are ranked."""
        if not (self.cache / "cran.documents.npy").exists():
            activations.encode(read_cranfield(self.data).documents, self.cache / "cran")
        return Part.load(self.cache / "cran")

    @cached_property
    def ranker(self) -> CranfieldReader:
        """The live layers as they come with the encoder."""
        return CranfieldReader(self.data / "cranfield")

    @cached_property
    def raw_ranking(self) -> Ranking:
        """What the live layers make of raw memories."""
        part = self.cranfield
        return self.ranker.rank(part.vectors, part.offsets, part.owners)

    def codec(self, name: str, seed: int) -> ProductCodec | None:
        """Return an arm's codec, trained on the running text."""
        return None if name == RAW else self._codec(name, seed)

    def reader(self, fold: int, seed: int) -> ExtractiveLumen:
        """Return the reader of raw memories that has not seen a fold's articles."""
        folder = self.cache / "readers" / f"fold {fold} seed {seed}"
        if not folder.exists():
            reader = self._taught_on_text(seed)
            _train(reader, self.xquad, self.others(fold), _ON_XQUAD, [seed, fold])
            _save(reader, folder)
        return ExtractiveLumen.from_pretrained(folder)

    def questions(self, fold: int) -> list[Question]:
        """Return the questions of every third article."""
        return questions_of(self.xquad, fold)

    def others(self, fold: int) -> list[Question]:
        """Return the questions of all other articles."""
        folds = [self.questions(each) for each in range(NUM_FOLDS) if each != fold]
        return [question for questions in folds for question in questions]

    @lru_cache(maxsize=1)  # noqa: B019 - the workshop lives as long as the process
    def _codec(self, name: str, seed: int) -> ProductCodec:
        folder = self.cache / "codecs" / f"{name} {seed}"
        if not folder.exists():
            text, arm = self.text, ARMS[name]
            part = Part(text.memories, text.token_ids, text.offsets, text.articles)
            part = part.some(arm.num_tokens, seed)
            codec = ProductCodec.train(
                part.vectors,
                num_subspaces=arm.num_subspaces,
                codebook_size=arm.codebook_size,
                token_ids=part.token_ids,
                offsets=part.offsets,
                vocabulary=self._vocabulary,
                seed=seed,
                **arm.stages,
            )
            codec.save(folder)
            logger.info("codec %s is trained", name)
        return ProductCodec.load(folder)

    def teach_on_text(
        self, reader: ExtractiveLumen, num_questions: int, seed: int
    ) -> dict[str, float]:
        """Train a reader on questions made from the running text; return steps and loss."""
        order = np.random.default_rng(seed).permutation(len(self.text.questions))
        chosen = [self.text.questions[number] for number in order[:num_questions]]
        return _train(reader, self.text, chosen, _ON_CLOZE, [seed])

    def _taught_on_text(self, seed: int) -> ExtractiveLumen:
        """Return a reader that has seen made questions only."""
        folder = self.cache / "readers" / f"text seed {seed}"
        if not folder.exists():
            reader = fresh_reader(seed)
            self.teach_on_text(reader, _CLOZE_QUESTIONS, seed)
            _save(reader, folder)
        return ExtractiveLumen.from_pretrained(folder)

    @cached_property
    def _vocabulary(self) -> np.ndarray:
        path = self.cache / "vocabulary.npy"
        if not path.exists():
            np.save(path, activations.encode_vocabulary())
        vocabulary: np.ndarray = np.load(path)
        return vocabulary


def questions_of(material: Material, fold: int) -> list[Question]:
    """Return the questions of every third article."""
    return [each for each in material.questions if each.article % NUM_FOLDS == fold]


def fresh_reader(seed: int) -> ExtractiveLumen:
    """Return the encoder, cut, with a head of random weights."""
    torch.manual_seed(seed)
    reader = ExtractiveLumen.from_pretrained(DEFAULT_SOURCE)
    reader.config = replace(reader.config, encoder_id=read_identity(EncoderOptions()).id)
    return reader


def _train(
    reader: ExtractiveLumen,
    material: Material,
    questions: list[Question],
    training: Training,
    seed: list[int],
) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    trained = train(reader, material, questions, remember(material), training, rng)
    logger.info("reader is trained: %s", trained)
    return trained


def _save(reader: ExtractiveLumen, folder: Path) -> None:
    reader.save_pretrained(folder, plan_encoder(EncoderOptions()).checkpoint.tokenizer_file)
