"""What a job is, as values: its plan, what it pins, and what it notes of each partition."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from encoder_jobs.options import EncodeOptions
from memstore.storage import ShardEntry
from memstore.text import BadRecord
from memstore.types import canonical_json

# Part of every job's id. Raise it when the same input and options are cut into other partitions or
# windows: a job that an older version began is then another job, instead of a mixture of two cuts.
PLAN_FORMAT = 1


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
        """Digest of options, encoder and input content: the same command on the same corpus is the
        same job. The encoder counts by its id, so a checkpoint folder may move.
        """
        options = {name: value for name, value in asdict(self.options).items() if name != "encoder"}
        named = {
            "plan_format": PLAN_FORMAT,
            "options": options,
            "encoder_id": self.encoder_id,
            "inputs": self.inputs,
        }
        return hashlib.sha256(canonical_json(named)).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        body = {name: getattr(self, name) for name in self.__dataclass_fields__}
        options = {**asdict(self.options), "encoder": self.options.encoder.to_dict()}
        return {**body, "options": options}

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
