"""One run: an arm under a seed, from the model that it starts from to a row of results."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from encoder_jobs.melodi_scoring import score_each
from encoder_jobs.ragged import Ragged
from experiments.melodi.ablations import ablate
from experiments.melodi.arms import Arm, Task, arms, count_weights, make_config
from experiments.melodi.language import learn_language
from experiments.melodi.queues import (
    compress_queue,
    empty_queue,
    fit_codec,
    relative_error,
    sample_entries,
)
from experiments.melodi.recall import make_streams
from experiments.melodi.recalling import ask, learn_to_recall
from experiments.melodi.sizes import SIZES, Size
from experiments.melodi.text import read_split
from experiments.results import digest, locked
from experiments.statistics import to_text
from memstore.codec import ProductCodec
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import MelodiConfig
from memstore.models.melodi_memory import Convention, memory_floats
from memstore.models.vq import ProductVQ

_TRAINING = "training.json"
_CODEC, _MODEL = "codec", "model"
_BFLOAT16_BYTES = 2

logger = logging.getLogger(__name__)


class Workshop:
    """What runs share: the text, and models kept in a folder.

    Several processes may use one folder: what one is training, the others wait for.

    Args:
        size: of the experiment.
        cache: keeps a model, and a codec if it learnt with one, for every arm that learns.
        text: folder of the archives; None: the language task cannot be run.
    """

    def __init__(self, size: Size, cache: Path, text: Path | None) -> None:
        self.size, self.cache, self._text = size, cache, text
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def run(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of an arm under a seed."""
        began = time.perf_counter()
        task, name, seed = key["task"], key["arm"], key["seed"]
        arm = arms(task)[name]
        folder = self.learnt(task, name if arm.learns else arm.start or name, seed)
        model = Melodi.from_pretrained(folder / _MODEL).to(self.device)
        config = model.config
        row = {
            "weights": count_weights(config),
            "ffn_dim": config.ffn_dim,
            **_memory(config, arm.rate),
            **json.loads((folder / _TRAINING).read_text()),
        }
        if arm.rate > 1:
            row |= self._compress(model, task, arm, folder, seed)
        tested = time.perf_counter()
        row |= self._tested(model, task, arm)
        now = time.perf_counter()
        machine = f"CPU, {torch.get_num_threads()} threads"
        if self.device.type == "cuda":
            machine = torch.cuda.get_device_name()
        times = {"test_seconds": round(now - tested, 1), "seconds": round(now - began, 1)}
        return row | times | {"machine": machine}

    def _tested(self, model: Melodi, task: Task, arm: Arm) -> dict[str, Any]:
        alter = empty_queue if arm.is_zeroed else None
        if task == "recall":
            asked = {
                "right": self.size.test.streams(self.size.task),
                "passkeys": self.size.test.passkeys(self.size.task),
            }
            told = {name: ask(model, streams, alter=alter) for name, streams in asked.items()}
            return {"metric": "right of asked, by windows back and stream", **told}
        precision = self.size.training.precision
        losses = score_each(model, self.documents[1], precision=precision, alter=alter)
        loss = float(losses.sums.sum() / losses.counts.sum())
        return {
            "metric": "perplexity of a token",
            "value": float(np.exp(loss)),
            "num_documents": len(losses.counts),
            "losses": to_text(losses.sums),
            "counts": to_text(losses.counts),
        }

    def _compress(
        self, model: Melodi, task: Task, arm: Arm, folder: Path, seed: int
    ) -> dict[str, Any]:
        """Put a codec into the model; return what it loses of entries it was not fitted to, and its
        own bytes, which all sessions share.
        """
        fitted, others = np.array_split(self.entries(model, task, seed), [self.size.num_entries])
        if arm.learns:
            codec = ProductCodec.load(folder / _CODEC)
        else:
            codec = fit_codec(fitted, arm.rate, seed)
        compress_queue(model, codec, decay=self.size.decay).eval()
        tables = sum(len(content) for content in codec.files().values())
        return {"error": relative_error(codec, others), "codec_bytes": tables}

    def learnt(self, task: Task, name: str, seed: int) -> Path:
        """Return the folder of an arm's model; train it if nobody has."""
        folder = self.cache / task / f"{name.replace('/', ' of ')} seed {seed}"
        with locked(folder.with_suffix(".lock")):
            if not (folder / _TRAINING).exists():
                self._learn(task, name, seed, folder)
        return folder

    def _learn(self, task: Task, name: str, seed: int, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        began = time.perf_counter()
        arm = arms(task)[name]
        if task == "recall":
            model, losses = self._learn_recall(arm, seed)
        elif arm.start is None:
            config = make_config(arm, self.size.language)
            options = replace(self.size.training, seed=seed)
            prepare = partial(ablate, ablation=arm.ablation) if arm.ablation else None
            model, losses = learn_language(
                config, options, self.documents[0], device=self.device, prepare=prepare
            )
        else:
            model, losses = self._learn_on(arm, seed, folder)
        told = {
            "steps": len(losses),
            "loss": float(np.mean(losses[-20:])),
            "training_seconds": round(time.perf_counter() - began, 1),
        }
        model.save_pretrained(folder / _MODEL)
        (folder / _TRAINING).write_text(json.dumps(told))
        logger.info("%s, %s: %s", task, folder.name, told)

    def _learn_recall(self, arm: Arm, seed: int) -> tuple[Melodi, list[float]]:
        torch.manual_seed(seed)
        model = Melodi(make_config(arm, self.size.recall)).to(self.device)
        losses = learn_to_recall(model, self.size.task, self.size.course, seed=seed)
        return model, losses

    def _learn_on(self, arm: Arm, seed: int, folder: Path) -> tuple[Melodi, list[float]]:
        """Go on from another arm's model, with its queue compressed or as it is."""
        assert arm.start is not None
        start = Melodi.from_pretrained(self.learnt("language", arm.start, seed) / _MODEL)
        start = start.to(self.device)
        codec = None
        if arm.rate > 1:
            entries = self.entries(start, "language", seed)[: self.size.num_entries]
            codec = fit_codec(entries, arm.rate, seed)

        def prepare(model: Melodi) -> None:
            model.load_state_dict(start.state_dict())
            if codec is not None:
                compress_queue(model, codec, decay=self.size.decay)

        # Other numbers than any seed's, so that the streams are other ones.
        options = replace(self.size.further, seed=seed + 1000)
        model, losses = learn_language(
            start.config, options, self.documents[0], device=self.device, prepare=prepare
        )
        if codec is not None:
            quantizer = cast(ProductVQ, model.quantize_queue(None))
            quantizer.to_codec("float32").save(folder / _CODEC)
        return model, losses

    def entries(self, model: Melodi, task: Task, seed: int) -> np.ndarray:
        """Return what training streams leave in the queue: to fit a codec to, and a tenth more."""
        wanted = self.size.num_entries * 11 // 10
        if task == "language":
            documents = self.documents[0]
            order = np.random.default_rng(seed).permutation(len(documents))
            return sample_entries(model, documents.take(order), wanted)
        test = self.size.test
        windows = self.size.recall.queue_windows
        streams = make_streams(
            self.size.task,
            np.random.default_rng([seed, windows]),
            num_streams=-(-wanted // (windows * model.config.num_long_tokens)),
            num_windows=windows,
            distances=np.array(test.distances),
            pair_places=test.pair_places,
        )
        return sample_entries(model, Ragged.of(list(streams.tokens)), wanted)

    @cached_property
    def documents(self) -> tuple[Ragged, Ragged]:
        """What is trained on, and what is held out."""
        if self._text is None:
            raise ValueError("no text: give --data, the folder that holds text/")
        file = self.cache / "tokenizer.json"
        with locked(file.with_suffix(".lock")):
            return read_split(
                self._text,
                vocab_size=self.size.language.vocab_size,
                most_tokens=self.size.most_tokens,
                tokenizer=file,
            )


def _memory(config: MelodiConfig, rate: int) -> dict[str, Any]:
    """Return what a model keeps of a text: floats, and bytes of bfloat16 and codes."""
    floats = {each.value: memory_floats(config, each).total for each in Convention}
    stored = memory_floats(config, Convention.STORED)
    return {
        "memory_floats": floats,
        "memory_bytes": _BFLOAT16_BYTES * stored.short + _BFLOAT16_BYTES * stored.long // rate,
    }


def open_workshop(size: str, cache: Path, text: Path | None) -> Workshop:
    """Return the workshop of a size by name."""
    return Workshop(SIZES[size], cache / f"{size}-{digest(SIZES[size])}", text)
