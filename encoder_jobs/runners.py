"""Who drives the stages: this process, or Ray Data on one machine or a cluster.

A row of the Ray dataset is a partition, never a passage: token ids cross the object store, memories
    and codebooks do not. Ray may run a partition twice; receipts and shards are create-only and
    deterministic, so nothing comes of it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Protocol

from encoder_jobs.prepare import Speed, Step, prepare_job
from encoder_jobs.spec import JobPlace, JobSpec, Receipt
from encoder_jobs.stages import PartitionEncoder, TokenizedPartition, cached_splitter, tokenize
from memstore.errors import ConfigError, MemstoreError, MissingDependencyError, UnavailableError
from memstore.text import Partition

_TOKENIZER_CPUS = 0.5


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
        splitter = cached_splitter(spec.options.encoder)
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
        address: `"local"` starts Ray on this machine; else a running cluster's address (`"auto"`,
            `"ray://…"`).
    """

    def __init__(self, address: str) -> None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # an open Ray port runs anybody's code
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its warnings are not the user's
        import ray

        self._ray: Any = ray
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            _start(ray, address)
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    @property
    def num_encoders(self) -> int:
        """One encoder a GPU; without GPUs one a machine, which uses its cores as threads."""
        num_gpus = int(self._ray.cluster_resources().get("GPU", 0))
        return num_gpus or len(self._ray.nodes())

    def prepare(self, place: JobPlace, sampled: Sequence[Partition]) -> Iterator[Step | Speed]:
        """See `Runner.prepare`; a remote task with an encoder's resources streams it back."""
        task = self._ray.remote(prepare_job).options(num_returns="streaming", **self._worker())
        with _typed_errors():
            for step in task.remote(place, sampled):
                yield self._ray.get(step)

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
        with _typed_errors():
            for row in receipts.iter_rows():
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
        smallest = min(
            node["Resources"].get("CPU", 1) for node in self._ray.nodes() if node["Alive"]
        )
        return {"num_cpus": max(0.5, smallest - 1)}


def check_runner(ray: str) -> None:
    """Refuse, before any work, a `--ray` that cannot be served.

    Raises:
        ConfigError: if it is empty. MissingDependencyError: if Ray is wanted and not installed.
    """
    if not ray:
        raise ConfigError("--ray is empty; wanted 'none', 'local' or the address of a Ray cluster")
    if ray != "none" and find_spec("ray") is None:
        raise MissingDependencyError(
            f"--ray {ray} needs Ray; install it with: pip install 'memstore[jobs]'", extra="jobs"
        )


def make_runner(ray: str) -> Runner:
    """Return the runner that `--ray` names: `"none"`, `"local"` or a cluster's address."""
    return LocalRunner() if ray == "none" else RayRunner(ray)


def _start(ray: Any, address: str) -> None:
    """Start Ray on this machine, or join a cluster."""
    is_local = address == "local"
    try:
        ray.init(
            address=None if is_local else address,
            include_dashboard=False if is_local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except ConnectionError as err:
        raise UnavailableError(
            f"no Ray cluster answers at {address!r}: {err}; start one, or use --ray local",
            address=address,
        ) from err


@lru_cache(maxsize=1)
def _cached_spec(place: JobPlace) -> JobSpec:
    return place.open().spec()


def tokenize_row(row: dict[str, Any], place: JobPlace) -> dict[str, Any]:
    """Ray task: partition in, tokenized partition out."""
    spec = _cached_spec(place)
    splitter = cached_splitter(spec.options.encoder)
    partition = Partition.from_dict(json.loads(row["partition"]))
    return {"tokenized": tokenize(partition, splitter, spec.metadata_columns).to_bytes()}


class EncodeRow:
    """Ray actor: tokenized partition in, receipt out."""

    def __init__(self, place: JobPlace) -> None:
        self._encoder = PartitionEncoder(place)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode and store one partition."""
        receipt = self._encoder(TokenizedPartition.from_bytes(row["tokenized"]))
        return {"receipt": json.dumps(receipt.to_dict())}


@contextmanager
def _typed_errors() -> Iterator[None]:
    """Raise the `MemstoreError` that a worker raised, not Ray's wrapping of it."""
    try:
        yield
    except Exception as err:
        cause: BaseException | None = err
        while cause is not None and not isinstance(cause, MemstoreError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        raise cause from None
