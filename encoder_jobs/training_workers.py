"""Where the steps of a run are made: in this process, or by the workers of Ray Train.

Workers share each batch, one a GPU or one a machine. What a run is made of lies in its folder,
which every machine must see; Ray starts the workers and joins them in a torch.distributed group,
and carries nothing else.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.runners import RayRunner, check_runner
from encoder_jobs.stages import use_all_cores
from encoder_jobs.training_folder import TrainingFolder
from encoder_jobs.training_loop import OnStep, Row
from memstore.cores import num_cores
from memstore.errors import ConfigError, MemstoreError, MissingDependencyError, UnavailableError

_LOOK_EVERY_S = 2.0

FolderT = TypeVar("FolderT", bound=TrainingFolder[Any])
RunSteps = Callable[[FolderT, torch.device, OnStep | None], None]
"""Makes the steps that the run in a folder still lacks, on a device; a function of a module."""


@contextmanager
def open_workers(ray: str, num_workers: int) -> Iterator[int]:
    """Join Ray, if it is wanted, as long as this context lasts; yield how many processes there are.

    Args:
        ray: `"none"` (this process), `"local"` (Ray on this machine), or a running cluster's
            address.
        num_workers: processes on Ray; 0: one a GPU, or one a machine.

    Raises:
        ConfigError: if several workers are wanted without Ray.
        MissingDependencyError: if Ray is wanted and it, or a part of it, is not installed.
        UnavailableError: if the cluster does not let this process in.
    """
    check_runner(ray)
    if ray == "none":
        if num_workers > 1:
            raise ConfigError(f"{num_workers} workers want Ray; give --ray local or a cluster")
        yield 1
        return
    check_ray_train()
    runner = RayRunner(ray)
    try:
        yield num_workers or runner.num_encoders
    finally:
        runner.close()


def run_training(
    folder: FolderT,
    run_steps: RunSteps[FolderT],
    steps: int,
    *,
    ray: str,
    num_workers: int,
    display: ProgressDisplay,
    describe: Callable[[Row], str],
) -> None:
    """Make the steps that a run still lacks, inside `open_workers`, and show them.

    Args:
        folder: of the run, in a file system of all machines.
        run_steps: makes them.
        steps: of the whole run.
        ray: as of `open_workers`.
        num_workers: what it gave.
        display: is told of the progress.
        describe: says what a row has to say of validation; empty: nothing.

    Raises:
        ConfigError: if the cluster has not as many GPUs, or CPUs if it has no GPU.
        MemstoreError: as `run_steps`, whichever worker raised it.
        UnavailableError: if workers or machines went away.
    """
    done = folder.checkpoints.last_step
    if done:
        display.say(f"{folder.root}: going on after step {done:,} of {steps:,}")
    display.update("training, steps", 0, steps)

    def show(step: int, row: Row) -> None:
        display.update("training, steps", step, steps, f"loss {row['loss']:.4g}")
        if said := describe(row):
            display.say(f"step {step:,}: {said}")

    if ray != "none":
        _run_on_ray(folder, run_steps, num_workers, show)
        return
    use_all_cores()
    run_steps(folder, this_device(), show)


def this_device() -> torch.device:
    """Return where this process computes if no other does: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_ray_train() -> None:
    """Refuse, before any work, an installation that lacks what Ray Train needs.

    Raises:
        MissingDependencyError: with what is missing.
    """
    try:
        import ray.train.torch  # noqa: F401
    except ImportError as err:
        raise MissingDependencyError(
            f"training on Ray: {err}; install it with: pip install 'memstore[jobs]'", extra="jobs"
        ) from err


def _run_on_ray(
    folder: FolderT, run_steps: RunSteps[FolderT], num_workers: int, on_step: OnStep
) -> None:
    """Make the steps on the Ray that this process has joined; `on_step` is called later."""
    import ray
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    unit = "GPU" if ray.cluster_resources().get("GPU", 0) else "CPU"
    if ray.cluster_resources().get(unit, 0) < num_workers:  # it would wait for more for ever
        raise ConfigError(
            f"{num_workers} workers: the Ray cluster has {ray.cluster_resources().get(unit, 0):g} "
            f"{unit}s, wanted one for each; give fewer --workers"
        )
    storage = folder.root / ".ray"
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"folder": folder, "run_steps": run_steps},
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=unit == "GPU",
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(name="run", storage_path=str(storage)),
    )
    try:
        with _watched(folder, on_step):
            trainer.fit()
    except TrainingFailedError as err:
        raise _cause(err) from err
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def train_worker(config: dict[str, Any]) -> None:
    """Ray Train worker: one process of the group."""
    from ray import train

    use_all_cores()
    if not torch.cuda.is_available():  # several workers may be on one machine
        share = num_cores() // train.get_context().get_local_world_size()
        torch.set_num_threads(max(1, share))
    config["run_steps"](config["folder"], train.torch.get_device(), None)


@contextmanager
def _watched(folder: TrainingFolder[Any], on_step: OnStep) -> Iterator[None]:
    """Tell of the newest row of metrics while the workers write them."""
    ended = threading.Event()
    told = folder.checkpoints.last_step

    def tell() -> None:
        nonlocal told
        for row in folder.metrics.rows():
            if row["step"] > told:
                told = row["step"]
                on_step(told, row)

    def watch() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            tell()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    tell()


def _cause(err: Exception) -> Exception:
    """Return what ended the workers: an error of ours before those that it caused elsewhere."""
    failures = list(getattr(err, "worker_failures", {}).values())
    for failure in failures:
        if isinstance(failure, MemstoreError):
            return failure
    first = failures[0] if failures else getattr(err, "controller_failure", err)
    reason = next(iter(str(first).strip().splitlines()), "")
    return UnavailableError(
        f"Ray gave up, {type(first).__name__}: {reason}; the last checkpoint is kept: run the same "
        "command again, with more memory if workers were killed for it"
    )
