"""Who drives the stages: this process, or Ray Data on one machine or a cluster.

A row of the Ray dataset is a partition, never a passage: token ids cross the object store, memories
and codebooks do not. Ray may run a partition twice; receipts and shards are create-only and
deterministic, so nothing comes of it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol

from encoder_jobs.codec_training import Step
from encoder_jobs.prepare import Speed, prepare_job
from encoder_jobs.records import JobPlace
from encoder_jobs.spec import JobSpec, Receipt
from encoder_jobs.stages import PartitionEncoder, TokenizedPartition, cached_splitter, tokenize
from memstore.errors import (
    ConfigError,
    InternalError,
    MemstoreError,
    MissingDependencyError,
    UnavailableError,
    error_class,
)
from memstore.text import Partition

_TOKENIZER_CPUS = 0.5
_KNOCK_S = 10.0
_MAX_ATTEMPTS = 4  # Ray itself would give a partition that ends its workers to new ones for ever


class Runner(Protocol):
    """Runs a job's stages somewhere."""

    @property
    def num_encoders(self) -> int:
        """Encoders that work at the same time."""
        ...

    def prepare(self, place: JobPlace, sampled: Sequence[Partition]) -> Iterator[Step | Speed]:
        """Pin codec and dictionary, yielding speed and progress."""
        ...

    def encode(
        self, place: JobPlace, spec: JobSpec, partitions: Sequence[Partition]
    ) -> Iterator[Receipt]:
        """Yield a receipt for each partition, in any order."""
        ...

    def close(self) -> None:
        """Give back what was started."""
        ...


class LocalRunner:
    """The same stages in this process; one thread tokenizes the next partition while one is
    encoded.
    """

    num_encoders = 1

    def prepare(self, place: JobPlace, sampled: Sequence[Partition]) -> Iterator[Step | Speed]:
        """See `Runner.prepare`."""
        return prepare_job(place, sampled)

    def encode(
        self, place: JobPlace, spec: JobSpec, partitions: Sequence[Partition]
    ) -> Iterator[Receipt]:
        """See `Runner.encode`."""
        splitter = cached_splitter(place.encoder)
        encoder = PartitionEncoder(place)
        with ThreadPoolExecutor(1) as pool:
            pending = None
            for partition in partitions:
                following = pool.submit(tokenize, partition, splitter, spec.metadata_columns)
                if pending is not None:
                    yield encoder(pending.result())
                pending = following
            if pending is not None:
                yield encoder(pending.result())

    def close(self) -> None:
        """See `Runner.close`."""


class RayRunner:
    """Ray Data: tokenizing tasks feed a pool of encoder actors.

    Args:
        address: `"local"` starts Ray on this machine; else a running cluster's, `"auto"` or
            `"host:port"`.

    Raises:
        UnavailableError: if the cluster does not let this process in.
    """

    def __init__(self, address: str) -> None:
        ray = self._ray = _import_ray(address)
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _start(ray, address)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    @property
    def num_encoders(self) -> int:
        """One encoder a GPU; without GPUs one a machine, which uses its cores as threads."""
        num_gpus = int(self._ray.cluster_resources().get("GPU", 0))
        return num_gpus or len(cpus_of_machines(self._ray.nodes()))

    def prepare(self, place: JobPlace, sampled: Sequence[Partition]) -> Iterator[Step | Speed]:
        """See `Runner.prepare`; a remote task with an encoder's resources streams it back."""
        task = self._ray.remote(prepare_steps).options(num_returns="streaming", **self._worker())
        with _lost_workers():
            for ref in task.remote(place, sampled):
                step = self._ray.get(ref)
                if isinstance(step, str):
                    raise _unpack_error(step)
                yield step

    def encode(
        self, place: JobPlace, spec: JobSpec, partitions: Sequence[Partition]
    ) -> Iterator[Receipt]:
        """See `Runner.encode`."""
        rows = [{"partition": json.dumps(partition.to_dict())} for partition in partitions]
        tokenized = self._ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            tokenize_row, fn_args=(place,), num_cpus=_TOKENIZER_CPUS
        )
        receipts = tokenized.map(
            EncodeRow,
            fn_constructor_args=(place,),
            concurrency=min(len(rows), self.num_encoders),
            **self._worker(),
        )
        with _lost_workers():
            for row in receipts.iter_rows():
                if row["error"]:
                    raise _unpack_error(row["error"])
                yield Receipt.from_dict(json.loads(row["receipt"]))

    def close(self) -> None:
        """Stop Ray if it was started here; a Ray that the caller had running goes on."""
        if self._is_ours:
            self._ray.shutdown()

    def _worker(self) -> dict[str, float]:
        """What an encoder asks Ray for: never all CPUs, or the tokenizing tasks would wait for
        ever.
        """
        if self._ray.cluster_resources().get("GPU", 0):
            return {"num_cpus": 1, "num_gpus": 1}
        return {"num_cpus": max(0.5, min(cpus_of_machines(self._ray.nodes())) - 1)}


def cpus_of_machines(nodes: Sequence[dict[str, Any]]) -> list[float]:
    """Return how many CPUs each machine of a cluster offers that can hold an encoder.

    Args:
        nodes: as `ray.nodes()` tells them. A head that offers no CPU (`--num-cpus 0`) only plans.

    Raises:
        UnavailableError: if none of them offers a CPU.
    """
    offered = [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]
    cpus = [count for count in offered if count >= 1]
    if not cpus:
        raise UnavailableError(
            f"none of the {len(offered)} machines of the Ray cluster offers a CPU to encode on; "
            "wait for its workers, or start one"
        )
    return cpus


def check_runner(ray: str) -> None:
    """Refuse, before any work, a `--ray` that cannot be served.

    Raises:
        ConfigError: if it is empty, or an address of Ray Client, which cannot stream results.
        MissingDependencyError: if Ray is wanted and not installed.
        UnavailableError: if nothing listens at a cluster's `host:port`.
    """
    if not ray:
        raise ConfigError("--ray is empty; wanted 'none', 'local' or the address of a Ray cluster")
    if ray.startswith("ray://"):
        raise ConfigError(
            f"--ray {ray} is an address of Ray Client, which cannot stream results back; submit "
            "the command from inside the cluster with --ray auto, or pass the cluster's host:port"
        )
    _knock(ray)
    if ray != "none":
        try:
            _import_ray(ray)
        except ModuleNotFoundError as err:
            raise MissingDependencyError(
                f"--ray {ray} needs {err.name!r}; install it with: pip install 'memstore[jobs]'",
                extra="jobs",
            ) from err


def _knock(address: str) -> None:
    """Find out at once whether anything listens at a `host:port`; Ray would try for minutes, then
    end the process.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as err:
        raise UnavailableError(
            f"--ray {address}: no Ray cluster answers there: {err}; start one, or use --ray local",
            address=address,
        ) from err


def make_runner(ray: str) -> Runner:
    """Return the runner that `--ray` names: `"none"`, `"local"`, `"auto"` or `"host:port"`."""
    return LocalRunner() if ray == "none" else RayRunner(ray)


def _import_ray(address: str) -> Any:
    if "ray" not in sys.modules:  # it reads these when it is imported, and never again
        if address == "local":  # an open Ray port runs anybody's code; a cluster has its operator
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else a false alarm at every start
    return importlib.import_module("ray")


def _start(ray: Any, address: str) -> None:
    """Start Ray on this machine, or join a cluster."""
    from ray.exceptions import RayError

    is_local = address == "local"
    try:
        ray.init(
            address=address,
            include_dashboard=False if is_local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as err:
        reason = next(iter(str(err).strip().splitlines()), type(err).__name__).rstrip(".")
        raise UnavailableError(
            f"--ray {address}: Ray does not start or lets nobody in: {reason}; is a cluster "
            "running there? If it wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH",
            address=address,
        ) from err


@lru_cache(maxsize=1)
def _cached_spec(place: JobPlace) -> JobSpec:
    return place.open().spec()


def prepare_steps(place: JobPlace, sampled: Sequence[Partition]) -> Iterator[Step | Speed | str]:
    """Ray task: `prepare_job`; an error is the last thing that it yields."""
    try:
        yield from prepare_job(place, sampled)
    except MemstoreError as err:
        yield _pack_error(err)


def tokenize_row(row: dict[str, Any], place: JobPlace) -> dict[str, Any]:
    """Ray task: partition in, tokenized partition or an error out."""
    try:
        spec = _cached_spec(place)
        splitter = cached_splitter(place.encoder)
        partition = Partition.from_dict(json.loads(row["partition"]))
        tokenized = tokenize(partition, splitter, spec.metadata_columns)
    except MemstoreError as err:
        return {"tokenized": b"", "error": _pack_error(err)}
    return {"tokenized": tokenized.to_bytes(), "error": ""}


class EncodeRow:
    """Ray actor: tokenized partition in, receipt or an error out."""

    def __init__(self, place: JobPlace) -> None:
        self._place = place
        self._encoder: PartitionEncoder | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode and store one partition."""
        if row["error"]:
            return {"receipt": "", "error": row["error"]}
        try:
            receipt = self._encode(TokenizedPartition.from_bytes(row["tokenized"]))
        except MemstoreError as err:
            return {"receipt": "", "error": _pack_error(err)}
        return {"receipt": json.dumps(receipt.to_dict()), "error": ""}

    def _encode(self, partition: TokenizedPartition) -> Receipt:
        job = self._place.open()
        attempts = job.begin(partition.number)
        if attempts > _MAX_ATTEMPTS:
            raise InternalError(
                f"partition {partition.number} of job {job.job_id}: {_MAX_ATTEMPTS} workers ended "
                f"while encoding it{_span(partition)}; give them more memory or mend the input, "
                "then run the same command again"
            )
        # Built here: of an error in an actor's constructor Ray keeps no more than the text.
        self._encoder = self._encoder or PartitionEncoder(self._place)
        receipt = self._encoder(partition)
        job.forget_attempts(partition.number)
        return receipt


def _span(partition: TokenizedPartition) -> str:
    if not partition.passages:
        return ""
    first, last = partition.passages[0].passage, partition.passages[-1].passage
    return f" (documents {first.document_id!r} to {last.document_id!r})"


# Errors cross Ray as values: raised in a worker, they would be wrapped, logged, and tried again.
def _pack_error(err: MemstoreError) -> str:
    return json.dumps([err.code, err.message, err.details])


def _unpack_error(packed: str) -> MemstoreError:
    code, message, details = json.loads(packed)
    return error_class(code)(message, **details)


@contextmanager
def _lost_workers() -> Iterator[None]:
    """Name what ends a job when no worker raised anything: workers or machines that went away."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError:  # a worker's own exception: a fault of ours, with its traceback
        raise
    except RayError as err:
        reason = str(err).strip().splitlines()[0]
        raise UnavailableError(
            f"Ray gave up, {type(err).__name__}: {reason}; what is encoded is kept: run the same "
            "command again, with more memory if workers were killed for it"
        ) from err
