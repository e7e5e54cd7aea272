"""What a job is: its options, its input and how that is cut; and the records it leaves in the
collection.

```
jobs/<job-id>/spec.json           options, encoder and input digests
              pins.json           codec and text dictionary that every shard of the job uses
              receipts/<n>.json   partition n is stored: its shard and its bad records
              attempts/<n>/       Ray workers that have begun partition n and not come to an end
              dead_letters.jsonl  all bad records with their reasons
```

The job id is the digest of options, encoder and input content: the same command on the same corpus
is the same job.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memstore.encoders import EncoderOptions
from memstore.errors import CodecNotFoundError, ConfigError, NotFoundError
from memstore.storage import (
    WRITE_MODES,
    Collection,
    PosixStore,
    ShardEntry,
    WriteMode,
    seal,
    unseal,
)
from memstore.storage.dictionary import dictionary_key
from memstore.text import BadRecord
from memstore.types import canonical_json

DEFAULT_PARTITION_BYTES = 1 << 20
DEFAULT_CODEC_SAMPLE_TOKENS = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """What to encode and how; all of it decides the job's id.

    Attributes:
        layout, id_field, text_field, title_field: see `memstore.text.open_corpus`.
        codec: `"auto"` (the collection's, or one trained on a sample), a codec's id in the
            collection, or a
            codec's folder.
        codec_sample_tokens: memories that a new codec is trained on.
        partition_bytes: text in one partition, which becomes one shard: what a crash can lose.
        max_bad_fraction: a corpus with a larger share of unreadable records is refused.
    """

    collection: str = "default"
    mode: WriteMode = "append"
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    codec: str = "auto"
    codec_sample_tokens: int = DEFAULT_CODEC_SAMPLE_TOKENS
    layout: str = "auto"
    id_field: str | None = None
    text_field: str | None = None
    title_field: str | None = None
    partition_bytes: int = DEFAULT_PARTITION_BYTES
    max_bad_fraction: float = 0.001

    def __post_init__(self) -> None:
        if self.mode not in WRITE_MODES:
            raise ConfigError(f"mode {self.mode!r}; wanted one of {', '.join(WRITE_MODES)}")
        if self.partition_bytes < 1 or self.codec_sample_tokens < 1:
            raise ConfigError("partition_bytes and codec_sample_tokens must be at least 1")

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> EncodeOptions:
        """Build from the JSON values of `dataclasses.asdict`."""
        return cls(**{**value, "encoder": EncoderOptions.from_dict(value["encoder"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A planned job.

    Attributes:
        options: what the user asked for, with the codec's folder replaced by its id.
        encoder_id: which encoder the options' source held when the job was planned.
        inputs: name → sha256 of every input file.
        num_partitions: into how many pieces the input is cut; partition n becomes receipt n.
        metadata_columns: column → type over the whole input.
        num_documents, num_text_bytes: what the input holds.
    """

    options: EncodeOptions
    encoder_id: str
    inputs: dict[str, str]
    num_partitions: int
    metadata_columns: dict[str, str]
    num_documents: int
    num_text_bytes: int

    @property
    def job_id(self) -> str:
        """Digest of options, encoder and input content."""
        named = {
            "options": asdict(self.options), "encoder": self.encoder_id, "inputs": self.inputs
        }  # fmt: skip
        return hashlib.sha256(canonical_json(named)).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        body = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**body, "options": asdict(self.options)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> JobSpec:
        """Build from the JSON values of `to_dict`."""
        return cls(**{**value, "options": EncodeOptions.from_dict(value["options"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPins:
    """What a job's first run decided and every later run must keep: codec and text dictionary, by
    digest.

    `reconstruction_error` is the codec's centred relative MSE on held-out memories, if the job
    trained it.
    """

    codec_id: str
    dictionary: str
    reconstruction_error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Partition `partition` is stored. `entry` is None if it held no passage."""

    partition: int
    entry: ShardEntry | None
    bad_records: tuple[BadRecord, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Receipt:
        """Build from the JSON values of `to_dict`."""
        entry = value["entry"]
        return cls(
            partition=value["partition"],
            entry=ShardEntry.from_dict(entry) if entry else None,
            bad_records=tuple(BadRecord(**bad) for bad in value["bad_records"]),
        )


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where a worker finds the job: store folder, collection, job id."""

    location: str
    collection: str
    job_id: str

    def open(self) -> JobFolder:
        """Open the job's records."""
        return JobFolder(Collection(PosixStore(self.location), self.collection), self.job_id)


class JobFolder:
    """A job's records in its collection. Everything is written once; the first writer wins."""

    def __init__(self, collection: Collection, job_id: str) -> None:
        self.collection, self.job_id = collection, job_id

    def put_spec(self, spec: JobSpec) -> JobSpec:
        """Store the spec; return the one that counts, another run's if it was first."""
        return spec if self._put("spec.json", spec.to_dict()) else self.spec()

    def spec(self) -> JobSpec:
        """Return the spec. `NotFoundError` if there is no such job."""
        return JobSpec.from_dict(self._get("spec.json"))

    def put_pins(self, pins: JobPins) -> JobPins:
        """Store the pins; return those that count, another run's if it was first."""
        self._put("pins.json", asdict(pins))
        return JobPins(**self._get("pins.json"))

    def pins(self) -> JobPins | None:
        """Return the pins, None before the first run has decided them."""
        try:
            return JobPins(**self._get("pins.json"))
        except NotFoundError:
            return None

    def put_receipt(self, receipt: Receipt) -> Receipt:
        """Store a receipt; return the one that counts, another worker's if it was first."""
        name = _receipt_name(receipt.partition)
        is_first = self._put(name, receipt.to_dict())
        return receipt if is_first else Receipt.from_dict(self._get(name))

    def receipts(self) -> dict[int, Receipt]:
        """Return the receipts by partition, of those whose shards, codec and dictionary are still
        there.
        """
        if self._has_lost_pins():
            return {}
        return {
            receipt.partition: receipt for receipt in self._all_receipts() if self._is_kept(receipt)
        }

    def begin(self, partition: int) -> int:
        """Note that a worker begins a partition; return how many have without an end, it
        included.
        """
        for attempt in itertools.count(1):
            if self.collection.store.put(self._key(f"{_attempts(partition)}{attempt}"), b""):
                break
        return attempt

    def forget_attempts(self, partition: int | None = None) -> None:
        """Forget who began a partition, or any; it came to an end, or another run tries."""
        below = "attempts/" if partition is None else _attempts(partition)
        for key in list(self.collection.store.list(self._key(below))):
            self.collection.store.delete(key)

    def drop_lost(self) -> None:
        """Delete records of what was collected as garbage: it is to be done again."""
        has_lost_pins = self._has_lost_pins()
        for receipt in self._all_receipts():
            if has_lost_pins or not self._is_kept(receipt):
                self.collection.store.delete(self._key(_receipt_name(receipt.partition)))
        if has_lost_pins:  # last: without pins, receipts of another codec would count
            self.collection.store.delete(self._key("pins.json"))

    def put_dead_letters(self, bad_records: list[BadRecord]) -> str:
        """Store the bad records, one JSON object a line; return where a user finds them."""
        lines = b"".join(
            json.dumps(asdict(bad), ensure_ascii=False).encode() + b"\n" for bad in bad_records
        )
        self.collection.store.put(self._key("dead_letters.jsonl"), lines)
        return str(Path(self.collection.store.location) / self._key("dead_letters.jsonl"))

    def _all_receipts(self) -> Iterator[Receipt]:
        for key in sorted(self.collection.store.list(self._key("receipts/"))):
            if key.endswith(".json"):  # an unfinished temp file is no receipt
                yield Receipt.from_dict(unseal(self.collection.store.get(key), key))

    def _has_lost_pins(self) -> bool:
        pins = self.pins()
        if pins is None:
            return False
        try:
            self.collection.open_codec(pins.codec_id)
        except CodecNotFoundError:
            return True
        key = self.collection.key(dictionary_key(pins.dictionary))
        return bool(pins.dictionary) and not self.collection.store.exists(key)

    def _is_kept(self, receipt: Receipt) -> bool:
        entry = receipt.entry
        return entry is None or self.collection.store.exists(self.collection.key(entry.key))

    def _key(self, name: str) -> str:
        return self.collection.key(f"jobs/{self.job_id}/{name}")

    def _put(self, name: str, body: dict[str, Any]) -> bool:
        return self.collection.store.put(self._key(name), seal(body))

    def _get(self, name: str) -> dict[str, Any]:
        key = self._key(name)
        return unseal(self.collection.store.get(key), key)


def _attempts(partition: int) -> str:
    return f"attempts/{partition:08d}/"


def _receipt_name(partition: int) -> str:
    return f"receipts/{partition:08d}.json"


def list_jobs(collection: Collection) -> Iterator[JobFolder]:
    """Yield the jobs that were planned for a collection."""
    for key in sorted(collection.store.list(collection.key("jobs/"))):
        job_id, name = key.split("/")[-2:]
        if name == "spec.json":
            yield JobFolder(collection, job_id)
