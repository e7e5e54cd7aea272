"""The training loop on Ray Train: workers that share each batch, one a GPU or one a machine.

What a run is made of lies in its folder, which every machine must see; Ray starts the workers and
joins them in a torch.distributed group, and carries nothing else.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from encoder_jobs.lumen_folder import RunFolder
from encoder_jobs.lumen_training import OnStep, run_steps
from encoder_jobs.stages import num_threads, use_all_cores
from memstore.errors import ConfigError, MemstoreError, MissingDependencyError, UnavailableError

_LOOK_EVERY_S = 2.0


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


def run_on_ray(folder: RunFolder, num_workers: int, on_step: OnStep) -> None:
    """Make the steps that a run still lacks, on the Ray that this process has joined.

    Args:
        folder: as of `run_steps`, in a file system of all machines.
        num_workers: processes; each takes a GPU if the cluster has some.
        on_step: called some time after each step with its number and its row of metrics.

    Raises:
        ConfigError: if the cluster has not as many GPUs, or CPUs if it has no GPU.
        MemstoreError: as `run_steps`, whichever worker raised it.
        UnavailableError: if workers or machines went away.
    """
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
        train_loop_config={"folder": str(folder.root)},
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


def train_worker(config: dict[str, str]) -> None:
    """Ray Train worker: one process of the group."""
    from ray import train

    use_all_cores()
    if not torch.cuda.is_available():  # several workers may be on one machine
        share = num_threads() // train.get_context().get_local_world_size()
        torch.set_num_threads(max(1, share))
    run_steps(RunFolder(Path(config["folder"])), train.torch.get_device())


@contextmanager
def _watched(folder: RunFolder, on_step: OnStep) -> Iterator[None]:
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
