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
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from encoder_jobs.prepare import Step, prepare_job
from encoder_jobs.spec import JobFolder, JobSpec, Receipt
from encoder_jobs.stages import PartitionEncoder, TokenizedPartition, cached_splitter, tokenize
from memstore.errors import ConfigError, MemstoreError, MissingDependencyError, UnavailableError
from memstore.storage import Collection, PosixStore
from memstore.text import Partition

_TOKENIZER_CPUS = 0.5


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where a worker finds the job: store folder, collection, job id."""

    location: str
    collection: str
    job_id: str


class Runner(Protocol):
    """Runs a job's stages somewhere."""

    def prepare(self, place: JobPlace) -> Iterator[Step]:
        """Pin codec and dictionary, yielding progress."""
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

    def prepare(self, place: JobPlace) -> Iterator[Step]:
        """See `Runner.prepare`."""
        return prepare_job(place.location, place.collection, place.job_id)

    def encode(
        self, place: JobPlace, spec: JobSpec, partitions: Sequence[Partition]
    ) -> Iterator[Receipt]:
        """See `Runner.encode`."""
        splitter = cached_splitter(spec.options.encoder)
        encoder = PartitionEncoder(place.location, place.collection, place.job_id)
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
        try:
            import ray
        except ModuleNotFoundError as err:
            raise MissingDependencyError(
                "--ray needs Ray; install it with: pip install 'memstore[jobs]'", extra="jobs"
            ) from err
        self._ray: Any = ray
        try:
            ray.init(
                address=None if address == "local" else address,
                include_dashboard=False if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except ConnectionError as err:
            raise UnavailableError(
                f"no Ray cluster answers at {address!r}: {err}", address=address
            ) from err
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def prepare(self, place: JobPlace) -> Iterator[Step]:
        """See `Runner.prepare`; one remote task with an encoder's resources streams its progress
        back.
        """
        task = self._ray.remote(prepare_job).options(num_returns="streaming", **self._worker())
        with _typed_errors():
            for step in task.remote(place.location, place.collection, place.job_id):
                yield self._ray.get(step)

    def encode(
        self, place: JobPlace, spec: JobSpec, partitions: Sequence[Partition]
    ) -> Iterator[Receipt]:
        """See `Runner.encode`."""
        rows = [{"number": partition.index} for partition in partitions]
        tokenized = self._ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            tokenize_row, fn_args=(place,), num_cpus=_TOKENIZER_CPUS
        )
        receipts = tokenized.map(
            EncodeRow,
            fn_constructor_args=(place,),
            concurrency=self._num_workers(len(rows)),
            **self._worker(),
        )
        with _typed_errors():
            for row in receipts.iter_rows():
                yield Receipt.from_dict(json.loads(row["receipt"]))

    def close(self) -> None:
        """See `Runner.close`."""
        self._ray.shutdown()

    def _num_workers(self, num_partitions: int) -> int:
        """One encoder a GPU; without GPUs, one a machine, which uses the machine's cores as
        threads.
        """
        num_gpus = int(self._ray.cluster_resources().get("GPU", 0))
        return min(num_partitions, num_gpus or len(self._ray.nodes()))

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


def make_runner(ray: str) -> Runner:
    """Return the runner that `--ray` names: `"none"`, `"local"` or a cluster's address."""
    if not ray:
        raise ConfigError("--ray is empty; wanted 'none', 'local' or the address of a Ray cluster")
    return LocalRunner() if ray == "none" else RayRunner(ray)


@lru_cache(maxsize=1)
def _spec(place: JobPlace) -> JobSpec:
    return JobFolder(Collection(PosixStore(place.location), place.collection), place.job_id).spec()


def tokenize_row(row: dict[str, Any], place: JobPlace) -> dict[str, Any]:
    """Ray task: partition number in, tokenized partition out."""
    spec = _spec(place)
    splitter = cached_splitter(spec.options.encoder)
    partition = spec.partitions[row["number"]]
    return {"tokenized": tokenize(partition, splitter, spec.metadata_columns).to_bytes()}


class EncodeRow:
    """Ray actor: tokenized partition in, receipt out."""

    def __init__(self, place: JobPlace) -> None:
        self._encoder = PartitionEncoder(place.location, place.collection, place.job_id)

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
