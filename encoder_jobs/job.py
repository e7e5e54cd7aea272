"""The job from end to end: plan, prepare, encode, commit. Every step can be cut off and run again.

- Plan: one pass over the input finds digests, duplicates, bad records, metadata types, partitions.
- Prepare: pin codec and dictionary (`prepare.py`).
- Encode: a partition becomes a shard and a receipt; what has a receipt is not touched again.
- Commit: one manifest publishes all shards. A job is finished when the newest version names them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from encoder_jobs.admission import (
    check_codec_name,
    check_encoder,
    check_job,
    is_published,
    refuse_known_documents,
)
from encoder_jobs.codec_training import Step
from encoder_jobs.estimate import estimate_work
from encoder_jobs.options import EncodeOptions, make_options
from encoder_jobs.prepare import choose_sampled
from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.records import JobFolder, JobPlace
from encoder_jobs.runners import Runner, check_runner, make_runner
from encoder_jobs.scanning import scan_corpus
from encoder_jobs.spec import JobPins, JobSpec, Receipt
from encoder_jobs.stages import cached_splitter
from memstore.codec import ProductCodec
from memstore.codec.recipes import NAMES
from memstore.encoders import read_identity
from memstore.errors import CollectionNotFoundError, InternalError, InvalidInputError
from memstore.index import ensure_inverted
from memstore.service import Store, open_store
from memstore.storage import (
    Collection,
    NewShards,
    Pins,
    Snapshot,
    commit_shards,
    fit_metadata_columns,
)
from memstore.text import Partition
from memstore.types import EncoderIdentity
from memstore.views import load_codec


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeReport:
    """What a job did.

    Attributes:
        version: the version that holds the passages.
        already_done: nothing was left to do.
        num_encoded: partitions encoded by this run; the others had receipts.
        num_tokens: memories, special tokens included.
        memory_bytes, record_bytes: bytes per token before (bfloat16) and after.
        reconstruction_error: centred relative MSE on held-out memories, if this job trained the
            codec.
        dead_letters: file of the bad records; empty if there are none.
    """

    job_id: str
    collection: str
    version: int
    already_done: bool
    num_partitions: int
    num_encoded: int
    num_documents: int
    num_passages: int
    num_tokens: int
    num_bad_records: int
    num_superseded: int
    memory_bytes: int
    record_bytes: int
    shard_bytes: int
    reconstruction_error: float | None
    dead_letters: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


def encode(
    corpus: str | Path,
    *,
    store: Store | str | Path,
    ray: str = "none",
    quiet: bool = False,
    **options: Any,
) -> EncodeReport:
    """Encode a corpus into a collection of a store; the work of `memstore encode`.

    Args:
        corpus: a file or folder.
        store: a store or its path.
        ray: `"none"` (this process), `"local"` (Ray on this machine), or a running cluster's
            address, `"auto"` or `"host:port"`.
        quiet: show no progress.
        options: see `make_options`.

    Raises:
        ConfigError, InvalidInputError, DuplicateIdError, NotFoundError: before any encoding.
        AlreadyExistsError, EncoderMismatchError, CodecMismatchError: the collection does not take
            this corpus.
        CommitConflictError, StorageError, StorageFullError: run the same command again later.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    with ProgressDisplay(quiet=quiet) as display:
        return Job(opened, str(corpus), make_options(**options), display).run(ray)


class Job:
    """One encoding job on its way through the four steps."""

    def __init__(
        self, store: Store, corpus: str, options: EncodeOptions, display: ProgressDisplay
    ) -> None:
        self._store, self._corpus, self._display = store, corpus, display
        self._collection = store.collection(options.collection)
        self._identity = read_identity(options.encoder)
        self._splitter = cached_splitter(options.encoder)
        self._options = _with_codec_id(self._collection, options)
        self._started = time.monotonic()

    def run(self, ray: str) -> EncodeReport:
        """Do what is left of the job."""
        check_runner(ray)
        base = _newest(self._collection)
        grows = base if self._options.mode != "replace" else None
        if grows is not None:
            check_encoder(grows, self._options, self._identity)
        spec, partitions = self._plan(grows)
        job = JobFolder(self._collection, spec.job_id)
        receipts = job.receipts()
        if base is not None and is_published(base, spec, receipts):
            self._display.say(
                f"job {spec.job_id} is finished: version {base.version} holds it; nothing to do"
            )
            return self._report(spec, job, receipts, version=base.version, already_done=True)
        if spec.options.mode == "append" and base is not None:
            refuse_known_documents(base, partitions)
        # Metadata types are the first run's; the encoder's folder is where this run found it.
        spec = replace(job.put_spec(spec), options=spec.options)
        job.recover()
        if grows is not None:
            check_job(grows, spec, job)
        todo = [partition for partition in partitions if partition.index not in receipts]
        num_tokens = self._announce(spec, todo, self._record_words(job, grows))
        runner = make_runner(ray)
        try:
            self._prepare(runner, job, partitions, num_tokens)
            receipts |= self._encode(runner, job, spec, todo)
        finally:
            runner.close()
        return self._commit(spec, job, receipts, len(todo))

    def _plan(self, base: Snapshot | None) -> tuple[JobSpec, tuple[Partition, ...]]:
        options = self._options
        found = scan_corpus(self._corpus, options, self._display)
        spec = JobSpec(
            options=options,
            encoder_id=self._identity.id,
            inputs={file.name: file.sha256 for file in found.files},
            num_partitions=len(found.partitions),
            metadata_columns=fit_metadata_columns(
                base.manifest.metadata_columns if base else {}, found.metadata_columns
            ),
            num_documents=found.num_documents,
            num_text_bytes=found.num_text_bytes,
        )
        return spec, found.partitions

    def _record_words(self, job: JobFolder, base: Snapshot | None) -> int:
        """Return W of the job's codec: of the one that it pinned, was given or finds in the
        collection, else what a new one is likely to have.
        """
        pins = job.pins()
        codec_id = pins.codec_id if pins else self._options.codec
        if codec_id not in NAMES:
            return load_codec(self._collection, codec_id).record_words
        return base.manifest.record_words if base else self._identity.memory_dim // 16

    def _announce(self, spec: JobSpec, todo: list[Partition], record_words: int) -> int:
        """Say what is coming; return about how many tokens."""
        record_bytes = 2 * record_words
        work = estimate_work(
            todo,
            choose_sampled(todo) if todo else (),
            self._splitter,
            self._identity,
            record_bytes,
        )
        done = spec.num_partitions - len(todo)
        self._display.say(
            f"job {spec.job_id}: {spec.num_documents:,} documents, "
            f"{spec.num_text_bytes / 1e6:,.1f} MB of text in {spec.num_partitions:,} partitions"
            + (f", {done:,} of them done" if done else "")
        )
        self._display.say(
            f"to encode: about {work.num_tokens:,} tokens in {work.num_passages:,} passages; "
            f"{2 * self._identity.memory_dim} → {record_bytes} bytes a token, "
            f"{work.num_bytes / 1e6:,.1f} MB of shards"
        )
        return work.num_tokens

    def _prepare(
        self, runner: Runner, job: JobFolder, partitions: Sequence[Partition], num_tokens: int
    ) -> None:
        for step in runner.prepare(self._place(job), choose_sampled(partitions)):
            if isinstance(step, Step):
                self._display.update(*step)
                continue
            minutes = num_tokens / (step.tokens_per_s * runner.num_encoders) / 60
            self._display.say(
                f"encoders: {runner.num_encoders}, {step.tokens_per_s:,.0f} tokens/s each: "
                f"about {minutes:,.1f} minutes"
            )

    def _encode(
        self, runner: Runner, job: JobFolder, spec: JobSpec, todo: list[Partition]
    ) -> dict[int, Receipt]:
        receipts: dict[int, Receipt] = {}
        if not todo:
            return receipts
        text_bytes = {partition.index: partition.num_text_bytes for partition in todo}
        total = sum(text_bytes.values())
        done = tokens = 0
        began = time.monotonic()
        self._display.update("encoding, text bytes", 0, total)
        for receipt in runner.encode(self._place(job), spec, todo):
            receipts[receipt.partition] = receipt
            done += text_bytes[receipt.partition]
            tokens += receipt.entry.num_tokens if receipt.entry else 0
            rate = tokens / (time.monotonic() - began)
            self._display.update("encoding, text bytes", done, total, f"{rate:,.0f} tokens/s")
        return receipts

    def _place(self, job: JobFolder) -> JobPlace:
        return JobPlace(
            location=self._store.objects.location,
            collection=self._collection.name,
            job_id=job.job_id,
            encoder=self._options.encoder,
        )

    def _commit(
        self, spec: JobSpec, job: JobFolder, receipts: dict[int, Receipt], num_encoded: int
    ) -> EncodeReport:
        missing = [number for number in range(spec.num_partitions) if number not in receipts]
        if missing:
            raise InternalError(
                f"job {spec.job_id}: {len(missing)} partitions have no receipt; run it again"
            )
        entries = [entry for number in sorted(receipts) if (entry := receipts[number].entry)]
        if not entries:
            raise InvalidInputError(
                f"{self._corpus}: no text in it, not one passage can be made of it"
            )
        codec = load_codec(self._collection, _pins(job).codec_id)
        result = commit_shards(
            self._collection,
            NewShards(
                entries=entries,
                metadata_columns=spec.metadata_columns,
                job_id=spec.job_id,
                replaces="document_id",
            ),
            collection_pins(spec, self._identity, codec),
            spec.options.mode,
        )
        # Here, not at somebody's first question; small collections have none.
        ensure_inverted(self._collection, self._collection.snapshot(result.version))
        return self._report(
            spec,
            job,
            receipts,
            version=result.version,
            num_encoded=num_encoded,
            num_superseded=result.num_deleted,
        )

    def _report(
        self,
        spec: JobSpec,
        job: JobFolder,
        receipts: dict[int, Receipt],
        *,
        version: int,
        num_encoded: int = 0,
        num_superseded: int = 0,
        already_done: bool = False,
    ) -> EncodeReport:
        entries = [receipt.entry for receipt in receipts.values() if receipt.entry]
        bad_records = [bad for number in sorted(receipts) for bad in receipts[number].bad_records]
        return EncodeReport(
            job_id=spec.job_id,
            collection=self._collection.name,
            version=version,
            already_done=already_done,
            num_partitions=spec.num_partitions,
            num_encoded=num_encoded,
            num_documents=spec.num_documents,
            num_passages=sum(entry.num_passages for entry in entries),
            num_tokens=sum(entry.num_tokens for entry in entries),
            num_bad_records=len(bad_records),
            num_superseded=num_superseded,
            memory_bytes=2 * self._identity.memory_dim,
            record_bytes=self._collection.info(version).record_bytes,
            shard_bytes=sum(entry.num_bytes for entry in entries),
            reconstruction_error=_pins(job).reconstruction_error,
            dead_letters=job.put_dead_letters(bad_records) if bad_records else "",
            seconds=time.monotonic() - self._started,
        )


def collection_pins(spec: JobSpec, identity: EncoderIdentity, codec: ProductCodec) -> Pins:
    """Return what a collection made by this job is pinned to."""
    return Pins(
        encoder={
            "id": identity.id,
            "identity": identity.to_dict(),
            "options": spec.options.encoder.to_dict(),
        },
        codec_id=codec.id,
        memory_dim=identity.memory_dim,
        embedding_dim=identity.embedding_dim,
        record_words=codec.record_words,
    )


def _with_codec_id(collection: Collection, options: EncodeOptions) -> EncodeOptions:
    """Take a codec given as a folder into the collection and name it by its id, so that a moved
    folder is the same job.
    """
    check_codec_name(collection, options.codec)
    if options.codec in NAMES or not Path(options.codec).is_dir():
        return options
    codec = ProductCodec.load(options.codec)
    collection.put_codec(codec.id, dict(codec.files()))
    return replace(options, codec=codec.id)


def _newest(collection: Collection) -> Snapshot | None:
    try:
        return collection.snapshot()
    except CollectionNotFoundError:
        return None


def _pins(job: JobFolder) -> JobPins:
    pins = job.pins()
    if pins is None:
        raise InternalError(f"job {job.job_id} has no pins; run it again")
    return pins
