"""The records that a job leaves in its collection, and where its workers find them.

```
jobs/<job-id>/spec.json           options, encoder and input digests
              pins.json           codec and text dictionary that every shard of the job uses
              receipts/<n>.json   partition n is stored: its shard and its bad records
              attempts/<n>/       Ray workers that have begun partition n and not come to an end
              dead_letters.jsonl  all bad records with their reasons
```
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encoder_jobs.spec import JobPins, JobSpec, Receipt
from memstore.encoders import EncoderOptions
from memstore.errors import CodecNotFoundError, InternalError, NotFoundError
from memstore.storage import Collection, PosixStore, seal, unseal
from memstore.storage.dictionary import dictionary_key
from memstore.text import BadRecord


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where a worker finds a job and its encoder.

    Attributes:
        location: the store's folder.
        encoder: this run's; the stored spec may name a checkpoint folder that has moved since.
    """

    location: str
    collection: str
    job_id: str
    encoder: EncoderOptions

    def open(self) -> JobFolder:
        """Open the job's records."""
        return JobFolder(Collection(PosixStore(self.location), self.collection), self.job_id)


class JobFolder:
    """A job's records in its collection. Everything is written once; the first writer wins."""

    def __init__(self, collection: Collection, job_id: str) -> None:
        self.collection, self.job_id = collection, job_id

    def put_spec(self, spec: JobSpec) -> JobSpec:
        """Store the spec; return the one that counts, another run's if it was first.

        Raises:
            InternalError: if the first run cut the same input otherwise.
        """
        if self._put("spec.json", spec.to_dict()):
            return spec
        stored = self.spec()
        wanted, got = _cut(stored), _cut(spec)
        if wanted != got:
            raise InternalError(
                f"job {self.job_id} was planned as {wanted}, this run makes {got} of the same "
                "input; finish it with the version of memstore that began it, or delete "
                f"{self._path('')} and run the same command again",
                job_id=self.job_id,
            )
        return stored

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

    def forget_attempts(self, partition: int) -> None:
        """Forget who began a partition: it came to an end."""
        self._delete_below(_attempts(partition))

    def recover(self) -> None:
        """Make the records fit for another run: delete those of what was collected as garbage,
        which is to be done again, and forget who began which partition.
        """
        has_lost_pins = self._has_lost_pins()
        for receipt in self._all_receipts():
            if has_lost_pins or not self._is_kept(receipt):
                self.collection.store.delete(self._key(_receipt_name(receipt.partition)))
        if has_lost_pins:  # last: without pins, receipts of another codec would count
            self.collection.store.delete(self._key("pins.json"))
        self._delete_below("attempts/")

    def put_dead_letters(self, bad_records: list[BadRecord]) -> str:
        """Store the bad records, one JSON object a line; return where a user finds them."""
        lines = b"".join(
            json.dumps(asdict(bad), ensure_ascii=False).encode() + b"\n" for bad in bad_records
        )
        self.collection.store.put(self._key("dead_letters.jsonl"), lines)
        return self._path("dead_letters.jsonl")

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

    def _delete_below(self, prefix: str) -> None:
        for key in list(self.collection.store.list(self._key(prefix))):
            self.collection.store.delete(key)

    def _path(self, name: str) -> str:
        return str(Path(self.collection.store.location) / self._key(name))

    def _key(self, name: str) -> str:
        return self.collection.key(f"jobs/{self.job_id}/{name}")

    def _put(self, name: str, body: dict[str, Any]) -> bool:
        return self.collection.store.put(self._key(name), seal(body))

    def _get(self, name: str) -> dict[str, Any]:
        key = self._key(name)
        return unseal(self.collection.store.get(key), key)


def _cut(spec: JobSpec) -> str:
    return f"{spec.num_partitions} partitions of {spec.num_documents} documents"


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
