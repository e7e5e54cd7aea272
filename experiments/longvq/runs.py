"""One run: an arm learns a task under a seed and is tested, from nothing to a row of results."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.running_text import read_text
from experiments.longvq.arms import FLOORS, TaskName, make_config
from experiments.longvq.batches import Outcomes, Task
from experiments.longvq.copying import Copying
from experiments.longvq.expressions import ListOpsOptions
from experiments.longvq.learning import Learner, examine, learn
from experiments.longvq.listops import ListOps
from experiments.longvq.recall import Recall
from experiments.longvq.reviews import Reviews, ReviewsOptions
from experiments.longvq.sizes import SIZES, Size, TaskOptions
from experiments.longvq.text import Text
from experiments.melodi.text import hold_out
from experiments.results import digest
from experiments.statistics import mean, to_text

logger = logging.getLogger(__name__)


class Workshop:
    """What runs share: tasks that are slow to draw or to read.

    Args:
        size: of the experiment.
        cache: keeps what was drawn.
        text: folder of the archives; None: tasks that read text cannot be run.
    """

    def __init__(self, size: Size, cache: Path, text: Path | None) -> None:
        self.size, self.cache, self.text = size, cache, text
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._tasks: dict[TaskName, Task] = {}

    def run(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of an arm under a seed, or of what rules reach.

        Raises:
            ArithmeticError: if a step's loss is not finite.
        """
        began = time.perf_counter()
        task = self.task(key["task"])
        if key["arm"] == FLOORS:
            return {"metric": _metric(task), "floors": dict(task.floors())}
        setting, seed = self.size.settings[key["task"]], key["seed"]
        torch.manual_seed(seed)
        config = make_config(key["arm"], setting.shape)
        learner = Learner(config, task.num_classes).to(self.device)
        losses = learn(learner, task.training(seed), setting.course, device=self.device)
        learnt = time.perf_counter()
        outcomes = examine(learner, task, seed, device=self.device)
        now = time.perf_counter()
        machine = f"CPU, {torch.get_num_threads()} threads"
        if self.device.type == "cuda":
            machine = torch.cuda.get_device_name()
        codes = learner.model.usage_perplexity().flatten().tolist()
        row = {
            **_figures(task, outcomes),
            "num_weights": sum(each.numel() for each in learner.parameters()),
            "ffn_dim": config.ffn_dim,
            "steps": len(losses),
            "loss": float(np.mean(losses[-20:])),
            "perplexity": [round(each, 1) for each in codes],
            "collapsed": learner.model.collapsed_codebooks(),
            "training_seconds": round(learnt - began, 1),
            "test_seconds": round(now - learnt, 1),
            "seconds": round(now - began, 1),
            "machine": machine,
        }
        logger.info("%s: %s %.4f", dict(key), row["metric"], row["value"])
        return row

    def task(self, name: TaskName) -> Task:
        """Return a task; it is drawn or read once."""
        if name not in self._tasks:
            self._tasks[name] = self._open(self.size.settings[name].options)
        return self._tasks[name]

    def _open(self, options: TaskOptions) -> Task:
        if isinstance(options, Recall | Copying):
            return options
        if isinstance(options, ListOpsOptions):
            return ListOps(options, self.cache)
        if self.text is None:
            raise ValueError("no text: give --data, the folder that holds text/")
        if isinstance(options, ReviewsOptions):
            return Reviews(options, read_text(self.text))
        return Text(options, *hold_out(read_text(self.text)))


def _metric(task: Task) -> str:
    return "bits a byte" if task.in_bits else "share of right answers"


def _figures(task: Task, outcomes: Outcomes) -> dict[str, Any]:
    """Return what was reached, and every item's outcome for comparisons."""
    sums, counts = (each.sum(axis=1)[None] for each in (outcomes.sums, outcomes.counts))
    reached = mean(sums, counts)
    return {
        "metric": _metric(task),
        "value": reached.value,
        "lower": reached.lower,
        "upper": reached.upper,
        "num_items": len(outcomes.counts),
        "groups": list(task.groups),
        "sums": to_text(outcomes.sums),
        "counts": to_text(outcomes.counts),
    }


def open_workshop(size: str, cache: Path, text: Path | None) -> Workshop:
    """Return the workshop of a size by name."""
    return Workshop(SIZES[size], cache / f"{size}-{digest(SIZES[size])}", text)
