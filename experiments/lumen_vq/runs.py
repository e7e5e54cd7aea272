"""One run: an arm under a seed, from the reader that it starts from to a row of results."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.lumen_vq.arms import Arm, arms
from experiments.lumen_vq.language import PAD
from experiments.lumen_vq.memories import Kept, ProductCodes, keep, pack
from experiments.lumen_vq.reading import (
    encode_passages,
    is_answered,
    learn_to_answer,
    learn_to_recite,
    new_reader,
)
from experiments.lumen_vq.sizes import SIZES, Size, Stage
from experiments.lumen_vq.statistics import to_text
from experiments.lumen_vq.task import Questions, ask
from experiments.lumen_vq.world import World
from experiments.results import digest, locked
from experiments.statistics import share_right
from memstore.codec import ProductCodec
from memstore.codec.sample import Sample
from memstore.models.lumen import Lumen
from memstore.models.vq import ProductVQ

_TEST_SEED = 0
_SAMPLED_PASSAGES = 3_000
_TRAINING = "training.json"

logger = logging.getLogger(__name__)


class Workshop:
    """What runs share: worlds, and readers kept in a folder.

    Several processes may use one folder: what one is training, the others wait for.

    Args:
        size: of the experiment.
        cache: keeps a reader, and a codec if it learnt with one, for every arm that learns.
    """

    def __init__(self, size: Size, cache: Path) -> None:
        self.size, self.cache = size, cache
        self.arms = arms(size.live_fractions)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def run(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of an arm under a seed; it reads in bfloat16, as memories are kept."""
        began = time.perf_counter()
        arm, seed = self.arms[key["arm"]], key["seed"]
        folder = self._reader(key["arm"] if arm.learns or not arm.start else arm.start, seed)
        model = Lumen.from_pretrained(folder / "reader").to(self.device)
        world = _shortened(self.test_world, arm.share_kept)
        kept = self._stored(arm, model, world, folder, seed)
        questions = self.questions
        if not arm.has_passages:
            questions = replace(questions, passages=questions.passages[:, :0])
        reader = model.to(torch.bfloat16)
        right = is_answered(reader, world, questions, kept.memories.bfloat16())
        em = share_right(int(right.sum()), len(right))
        num_tokens = int((world.passage_ids != PAD).sum())
        return {
            "metric": "em",
            "value": em.value,
            "lower": em.lower,
            "upper": em.upper,
            "one hop": float(right[questions.num_hops == 1].mean()),
            "two hops": float(right[questions.num_hops == 2].mean()),
            "bytes_per_token": kept.bytes_per_token,
            "bytes_with_tables": kept.bytes_per_token + kept.table_bytes / num_tokens,
            "error": kept.error,
            **json.loads((folder / _TRAINING).read_text()),
            "seconds": round(time.perf_counter() - began, 1),
            "machine": torch.cuda.get_device_name()
            if self.device.type == "cuda"
            else f"CPU, {torch.get_num_threads()} threads",
            "right": to_text(right),
        }

    def _stored(self, arm: Arm, model: Lumen, world: World, folder: Path, seed: int) -> Kept:
        """Return a world's memories as the reader gets them back from a store."""
        memories = encode_passages(model, world)
        if arm.rule is None:
            has_store = arm.has_passages and arm.live_fraction != "1"
            num_bytes = 2 * memories.shape[2] * arm.share_kept if has_store else 0.0
            return Kept(memories, num_bytes, 0, 0.0)
        if arm.learns:
            quantizer: Any = ProductCodec.load(folder / "codec")
        else:
            quantizer = arm.rule.fit(self._sample(model, seed), seed)
        return keep(arm.rule, quantizer, memories, world.passage_ids)

    def _reader(self, name: str, seed: int) -> Path:
        """Return the folder of an arm's reader; train it if nobody has."""
        folder = self.cache / f"{name.replace('/', ' of ')} seed {seed}"
        with locked(folder.with_suffix(".lock")):
            if not (folder / _TRAINING).exists():
                self._learn(self.arms[name], seed, folder)
        return folder

    def _learn(self, arm: Arm, seed: int, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        began = time.perf_counter()
        world = _shortened(self._world(seed), arm.share_kept)
        layer: ProductVQ | None = None
        losses: list[float] = []
        resets: list[int] = []
        if arm.start is None:
            model = new_reader(self.size.shape, self.size.task.language, seed).to(self.device)
            losses += learn_to_recite(model, world, self.size.recite, seed)
            losses += learn_to_answer(model, world, self.size.ask, seed)
        else:
            start = Lumen.from_pretrained(self._reader(arm.start, seed) / "reader")
            model = start.with_live_fraction(arm.live_fraction).to(self.device).train()
            if arm.learns == "all":
                model.unfreeze_memory_encoder()
            if isinstance(arm.rule, ProductCodes):
                codec = arm.rule.fit(self._sample(model, seed), seed)
                layer = arm.rule.bottleneck(codec, self.size.decay).to(self.device)
                layer.register_forward_hook(lambda _, __, made: resets.append(made.num_resets))
            losses += learn_to_answer(model, world, self._stage(arm), seed + 1, layer)
        told: dict[str, Any] = {
            "steps": len(losses),
            "loss": float(np.mean(losses[-20:])),
            "training_seconds": round(time.perf_counter() - began, 1),
        }
        if layer is not None:
            layer.eval().to_codec().save(folder / "codec")
            told["perplexity"] = float(layer.usage_perplexity().mean())
            told["resets"] = sum(resets)
        model.save_pretrained(folder / "reader", None)
        (folder / _TRAINING).write_text(json.dumps(told))
        logger.info("%s: %s", folder.name, told)

    def _stage(self, arm: Arm) -> Stage:
        adapt, joint = self.size.adapt, self.size.joint
        both = replace(adapt, num_steps=adapt.num_steps + joint.num_steps)
        return {"adapt": adapt, "joint": joint, "both": both}[arm.stage]

    def _sample(self, model: Lumen, seed: int) -> Sample:
        """Return memories of the training world, to fit a quantizer to."""
        world = copy.copy(self._world(seed))
        chosen = np.random.default_rng(seed).permutation(len(world.passage_ids))
        world.passage_ids = world.passage_ids[chosen[:_SAMPLED_PASSAGES]]
        memories = encode_passages(model, world)
        return pack(memories, world.passage_ids, len(self.size.task.language.words))

    @lru_cache(maxsize=1)  # noqa: B019 - the workshop lives as long as the process
    def _world(self, seed: int) -> World:
        return World(self.size.task, "train", seed)

    @cached_property
    def test_world(self) -> World:
        """The world that is asked about in the test, the same under every seed."""
        return World(self.size.task, "test", _TEST_SEED)

    @cached_property
    def questions(self) -> Questions:
        """The test, the same under every seed."""
        return ask(
            self.test_world,
            self.size.num_test,
            num_passages=self.size.num_passages,
            seed=_TEST_SEED,
        )


def _shortened(world: World, share: float) -> World:
    """Return the world with the first tokens of each passage alone."""
    shortened = copy.copy(world)
    shortened.passage_ids = world.passage_ids[:, : int(share * world.passage_ids.shape[1])]
    return shortened


def open_workshop(size: str, cache: Path) -> Workshop:
    """Return the workshop of a size by name."""
    return Workshop(SIZES[size], cache / f"{size}-{digest(SIZES[size])}")
