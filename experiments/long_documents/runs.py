"""One run: a model learns in one way, passages are read in one way, and questions are asked."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.long_documents.articles import Articles
from experiments.long_documents.facts import Facts
from experiments.long_documents.learning import learn
from experiments.long_documents.ranking import rank
from experiments.long_documents.task import Task, Test
from experiments.longvq.learning import Course
from experiments.results import digest, locked
from experiments.statistics import to_text
from memstore.encoders import EncoderOptions
from memstore.models.longvq import LongVQ
from memstore.models.longvq_config import KeyGradient, LongVQConfig

FACTS, ARTICLES, JOINED = "facts", "articles", "articles joined"
WHOLE, WINDOWS, TITLED = "documents whole", "windows", "windows, each with the title"
UNTRAINED, MINILM = "nothing", "MiniLM"

ARMS = {
    FACTS: ((WHOLE, WHOLE), (WINDOWS, WINDOWS), (WHOLE, WINDOWS)),
    ARTICLES: (
        (WHOLE, WHOLE),
        (WINDOWS, WINDOWS),
        (WHOLE, WINDOWS),
        (WINDOWS, WHOLE),
        (UNTRAINED, WINDOWS),
        (MINILM, WINDOWS),
        (MINILM, TITLED),
    ),
    JOINED: ((WHOLE, WHOLE), (WINDOWS, WINDOWS), (WHOLE, WINDOWS)),
}
"""Of each task: what a model learnt from, and how it reads the test; what trains comes first."""

_LEARNING = "learning.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """A model and how it learns.

    Args:
        config: of the model, but for the size of its vocabulary.
        course: of its training.
    """

    config: LongVQConfig
    course: Course


SETTINGS = {
    FACTS: Setting(
        LongVQConfig(
            vocab_size=1,
            dim=64,
            num_layers=3,
            num_heads=4,
            key_dim=16,
            value_dim=64,
            ffn_dim=128,
            num_codes=64,
            window=32,
        ),
        Course(num_steps=2400, learning_rate=4e-3, warmup_steps=50),
    ),
    ARTICLES: Setting(
        LongVQConfig(
            vocab_size=1,
            dim=384,
            num_layers=2,
            key_dim=64,
            value_dim=384,
            ffn_dim=768,
            num_codes=128,
            window=64,
            key_gradient=KeyGradient.DENSE,  # texts of 500 tokens: exact, at no more cost
        ),
        Course(num_steps=300, learning_rate=1e-4, warmup_steps=50),
    ),
}
_LEARNT_FOR = {JOINED: ARTICLES}
"""Tasks that are read with the models of another."""


def tasks(data: Path) -> dict[str, Task]:
    """Return all tasks.

    Args:
        data: folder that holds text/ and xquad/.
    """
    return {FACTS: Facts(), ARTICLES: Articles(data), JOINED: Articles(data, joined=8)}


def keys(num_seeds: int) -> list[dict[str, str | int]]:
    """Return the keys of all runs."""
    return [
        {"task": task, "learnt from": learnt, "reads": reads, "seed": seed}
        for task, arms in ARMS.items()
        for seed in range(num_seeds)
        for learnt, reads in arms
        if learnt != MINILM or seed == 0
    ]


class Workshop:
    """What runs share: texts, and models kept in a folder.

    Several processes may use one folder: what one is training, the others wait for.

    Args:
        data: folder that holds text/ and xquad/.
        cache: keeps a model for every way of learning, task and seed.
    """

    def __init__(self, data: Path, cache: Path) -> None:
        self._cache = cache
        self._tasks: dict[str, Task] = tasks(data)
        self._tests: dict[str, Test] = {}

    def run(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Return the rest of a key's row."""
        began = time.perf_counter()
        name, learnt, seed = key["task"], key["learnt from"], key["seed"]
        task = self._tasks[name]
        if name not in self._tests:
            self._tests[name] = task.test()
        test = self._tests[name]
        told: dict[str, Any] = {}
        if learnt == MINILM:
            template = "{title} {text}" if key["reads"] == TITLED else "{text}"
            options = EncoderOptions(window_tokens=task.passage_tokens + 2, template=template)
        else:
            folder = self._model(_LEARNT_FOR.get(name, name), learnt, seed)
            told = json.loads((folder / _LEARNING).read_text())
            options = EncoderOptions(
                source=str(folder / "model"),
                live_fraction="0",
                window_tokens=task.passage_tokens,
                template="{text}",
            )
        ranks = rank(test, options, is_whole=key["reads"] == WHOLE)
        row = {
            "recall@1": float((ranks == 1).mean()),
            "recall@5": float((ranks <= 5).mean()),
            "mrr": float((1 / ranks).mean()),
            **told,
            "seconds": round(time.perf_counter() - began, 1),
            "machine": f"CPU, {torch.get_num_threads()} threads",
            "ranks": to_text(ranks),
        }
        logger.info("%s: recall@1 %.4f", dict(key), row["recall@1"])
        return row

    def _model(self, name: str, learnt: str, seed: int) -> Path:
        """Return the folder of a model; train it if nobody has."""
        made_by = digest((SETTINGS[name], self._tasks[name]))
        folder = self._cache / f"{name} {made_by}, {learnt}, seed {seed}"
        with locked(folder.with_suffix(".lock")):
            if not (folder / _LEARNING).exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
                self._learn(name, learnt, seed, folder)
        return folder

    def _learn(self, name: str, learnt: str, seed: int, folder: Path) -> None:
        began = time.perf_counter()
        task, setting = self._tasks[name], SETTINGS[name]
        torch.manual_seed(seed)
        model = LongVQ(replace(setting.config, vocab_size=task.vocab_size))
        if task.word_vectors is not None:
            model.embedding.weight.data.copy_(torch.from_numpy(task.word_vectors))
        losses: list[float] = []
        if learnt != UNTRAINED:
            batches = task.training(seed)
            losses = learn(model, batches, setting.course, is_whole=learnt == WHOLE)
        model.eval().save_pretrained(folder / "model", task.tokenizer.encode())
        told = {
            "steps": len(losses),
            "loss": float(np.mean(losses[-20:])) if losses else None,
            "collapsed": model.collapsed_codebooks(),
            "training_seconds": round(time.perf_counter() - began, 1),
        }
        (folder / _LEARNING).write_text(json.dumps(told))
