"""Trains a codec on a sample file, in this process or spread over a Ray cluster.

Predictor and rotation are fitted by the driver; k-means in the subspaces, most of the work, is
spread: a task gets the columns of some subspaces and gives back their centroids. Each subspace
comes out as it would alone, so the codec is the same byte for byte, on machines of the same kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.runners import RayRunner, check_runner, cpus_of_machines
from memstore.codec import ProductCodec, choose_layout, fitting, train_codebook
from memstore.codec.config import CONFIG_FILE
from memstore.codec.sample import Sample, read_sample
from memstore.errors import (
    AlreadyExistsError,
    ConfigError,
    MemstoreError,
    UnavailableError,
    error_class,
)

_TASK_BYTES = 1 << 29  # columns in one task, at most, unless one subspace has more
_TASKS_AHEAD = 1  # tasks a machine whose columns wait in the object store while it works


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What to train; see `ProductCodec.train`. None of M or K: what `choose_layout` chooses."""

    num_subspaces: int | None = None
    codebook_size: int | None = None
    rotation: str | None = None
    rotation_block: int | None = None
    predictor: str | None = None
    seed: int = 0


class Cluster(Protocol):
    """Runs k-means in every subspace; see `train_codebook`."""

    def __call__(
        self,
        vectors: np.ndarray,
        num_subspaces: int,
        codebook_size: int,
        *,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Return (M, K, D/M) float32."""
        ...


def train_codec(
    sample: str | Path,
    output: str | Path,
    options: TrainOptions,
    *,
    ray: str = "none",
    display: ProgressDisplay,
) -> ProductCodec:
    """Train a codec and save it; the work of `memstore codec train`.

    Args:
        sample: a sample file.
        output: folder of the codec.
        options: what to train.
        ray: `"none"` (this process), `"local"` (Ray on this machine), or a running cluster's
            address.
        display: is told of the progress.

    Raises:
        AlreadyExistsError: if the folder holds a codec.
        ConfigError, ShapeError, NotFoundError, CorruptionError: of options or sample.
        UnavailableError: if the cluster does not let this process in, or its workers end.
        StorageError: if the codec cannot be written.
    """
    check_runner(ray)
    if (Path(output) / CONFIG_FILE).exists():
        raise AlreadyExistsError(f"{output}: holds a codec; train to another folder", object=output)
    memories = read_sample(sample)
    if options.predictor and not isinstance(memories.vocabulary, np.ndarray):
        raise ConfigError(
            f"{sample}: has no tensor 'vocabulary', which a predictor is fitted with; memstore "
            "codec sample writes it"
        )
    with ExitStack() as stack:
        cluster: Cluster = train_codebook
        if ray != "none":
            runner = RayRunner(ray)
            stack.callback(runner.close)
            cluster = spread_training
        display.say(f"{len(memories.vectors):,} vectors of {memories.vectors.shape[1]} dimensions")
        codec = _train(memories, options, cluster, display)
    codec.save(output)
    return codec


def _train(
    sample: Sample, options: TrainOptions, cluster: Cluster, display: ProgressDisplay
) -> ProductCodec:
    layout = choose_layout(sample.vectors.shape[1], len(sample.vectors))
    fitted = fitting.fit(
        sample,
        fitting.Stages(options.rotation, options.rotation_block, options.predictor),
        options.num_subspaces or layout.num_subspaces,
        options.codebook_size or layout.codebook_size,
        seed=options.seed,
        progress=lambda done, total: display.update("training the codec, subspaces", done, total),
        cluster=cluster,
    )
    return ProductCodec(
        fitted.codebook.astype(ml_dtypes.bfloat16),
        rotation=fitted.rotation,
        predictor=fitted.predictor,
    )


def spread_training(
    vectors: np.ndarray,
    num_subspaces: int,
    codebook_size: int,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Run k-means in every subspace on the Ray that this process has joined.

    See `train_codebook`, which gives the same. A machine works on one task at a time with all its
    cores; few more wait, so that the object store holds a part of the columns only.
    """
    import ray
    from ray.exceptions import RayError

    cpus = cpus_of_machines(ray.nodes())
    task = ray.remote(train_columns).options(num_cpus=min(cpus), max_retries=2)
    width = vectors.shape[1] // num_subspaces
    step = max(1, min(_TASK_BYTES // (4 * len(vectors) * width), -(-num_subspaces // len(cpus))))
    codebook = np.empty((num_subspaces, codebook_size, width), np.float32)
    waiting = [range(m, min(m + step, num_subspaces)) for m in range(0, num_subspaces, step)][::-1]
    running: dict[Any, range] = {}
    done = 0
    try:
        while waiting or running:
            if progress is not None:
                progress(done, num_subspaces)
            while waiting and len(running) < len(cpus) * (1 + _TASKS_AHEAD):
                part = waiting.pop()
                columns = vectors[:, part.start * width : part.stop * width].astype(np.float32)
                running[task.remote(columns, len(part), codebook_size, seed)] = part
            (ready,), _ = ray.wait(list(running), num_returns=1)
            part = running.pop(ready)
            codebook[part.start : part.stop] = _unpack(ray.get(ready))
            done += len(part)
    except RayError as err:
        reason = next(iter(str(err).strip().splitlines()), "")
        raise UnavailableError(
            f"Ray gave up, {type(err).__name__}: {reason}; run the same command again, with more "
            "memory if workers were killed for it"
        ) from err
    if progress is not None:
        progress(num_subspaces, num_subspaces)
    return codebook


def train_columns(
    columns: np.ndarray, num_subspaces: int, codebook_size: int, seed: int
) -> np.ndarray | str:
    """Ray task: (N, width * num_subspaces) float32 columns in, their centroids or an error out."""
    try:
        return train_codebook(columns, num_subspaces, codebook_size, seed=seed)
    except MemstoreError as err:  # as a value: raised here, it would be wrapped, and tried again
        return json.dumps([err.code, err.message, err.details])


def _unpack(result: np.ndarray | str) -> np.ndarray:
    if isinstance(result, str):
        code, message, details = json.loads(result)
        raise error_class(code)(message, **details)
    return result
