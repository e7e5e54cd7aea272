"""The records that a job leaves in its collection."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoder_jobs.options import EncodeOptions
from encoder_jobs.records import JobFolder, list_jobs
from encoder_jobs.spec import JobPins, JobSpec, Receipt
from memstore import ProductCodec
from memstore.errors import CorruptionError, InternalError, NotFoundError
from memstore.storage import Collection, PosixStore, ShardEntry
from memstore.text import BadRecord

SPEC = JobSpec(
    options=EncodeOptions(),
    encoder_id="e" * 64,
    inputs={"corpus.jsonl": "a" * 64},
    num_partitions=2,
    metadata_columns={"year": "int64"},
    num_documents=3,
    num_text_bytes=400,
)
ENTRY = ShardEntry(
    shard_id="name-0",
    num_bytes=5,
    sha256="b" * 64,
    head_sha256="c" * 64,
    codes_offset=64,
    codes_bytes=4,
    num_passages=1,
    num_tokens=2,
    dictionary="",
)


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """An empty collection."""
    return Collection(PosixStore(tmp_path / "store"), "default")


@pytest.fixture
def job(collection: Collection) -> JobFolder:
    """A job's folder in it, without any record."""
    return JobFolder(collection, SPEC.job_id)


def _store_shard(collection: Collection, entry: ShardEntry) -> None:
    collection.store.put(collection.key(entry.key), b"shard")


def _put_codec(collection: Collection) -> ProductCodec:
    codec = ProductCodec(np.eye(2, dtype=np.float32).reshape(1, 2, 2))
    collection.put_codec(codec.id, dict(codec.files()))
    return codec


def _receipt(partition: int, entry: ShardEntry | None = ENTRY) -> Receipt:
    bad = BadRecord("corpus.jsonl", 7, "no field 'text' for the text")
    return Receipt(partition=partition, entry=entry, bad_records=(bad,))


def test_a_job_without_records_says_so(job: JobFolder) -> None:
    """No spec is an error, no pins and no receipts are not."""
    with pytest.raises(NotFoundError):
        job.spec()
    assert job.pins() is None
    assert job.receipts() == {}


def test_the_first_writer_of_a_spec_wins(job: JobFolder) -> None:
    """A later run keeps to the metadata types that the first one found."""
    later = replace(SPEC, metadata_columns={"year": "double"})

    assert job.put_spec(SPEC) == SPEC
    assert job.put_spec(later) == SPEC


@pytest.mark.parametrize("change", [{"num_partitions": 3}, {"num_documents": 4}])
def test_a_plan_that_is_cut_otherwise_is_refused(job: JobFolder, change: dict[str, int]) -> None:
    """Receipts of one cut are never taken for those of another; the message says what to do."""
    job.put_spec(SPEC)

    with pytest.raises(InternalError, match=rf"job {job.job_id} .*2 partitions of 3 .*delete /"):
        job.put_spec(replace(SPEC, **change))  # type: ignore[arg-type]


def test_the_first_writer_of_pins_wins(job: JobFolder, collection: Collection) -> None:
    """Two runs at once agree on the codec of the first."""
    first = JobPins(codec_id="1" * 64, dictionary="", reconstruction_error=0.25)
    second = JobPins(codec_id="2" * 64, dictionary="", reconstruction_error=None)

    assert job.put_pins(first) == first
    assert JobFolder(collection, job.job_id).put_pins(second) == first
    assert job.pins() == first


def test_the_first_writer_of_a_receipt_wins(job: JobFolder, collection: Collection) -> None:
    """A second worker of the same partition gets the receipt that counts."""
    _store_shard(collection, ENTRY)
    first = _receipt(0)
    second = _receipt(0, replace(ENTRY, shard_id="other-0"))

    assert job.put_receipt(first) == first
    assert job.put_receipt(second) == first
    assert job.receipts() == {0: first}


def test_a_partition_without_passages_has_a_receipt_too(job: JobFolder) -> None:
    """It is not read again."""
    empty = _receipt(1, None)
    job.put_receipt(empty)

    assert job.receipts() == {1: empty}


def test_receipts_of_lost_shards_do_not_count(job: JobFolder, collection: Collection) -> None:
    """They are deleted when the job goes on, so that new ones can be written; the others stay."""
    _store_shard(collection, ENTRY)
    kept, lost = _receipt(0), _receipt(1, replace(ENTRY, shard_id="lost-1"))
    job.put_receipt(kept)
    job.put_receipt(lost)

    assert job.receipts() == {0: kept}
    job.recover()
    rewritten = replace(lost, entry=None)
    assert job.put_receipt(rewritten) == rewritten
    assert job.receipts() == {0: kept, 1: rewritten}


def test_without_its_codec_a_job_begins_afresh(job: JobFolder, collection: Collection) -> None:
    """Shards of a codec that is gone cannot be finished by others."""
    codec = _put_codec(collection)
    job.put_pins(JobPins(codec_id=codec.id, dictionary="", reconstruction_error=None))
    _store_shard(collection, ENTRY)
    job.put_receipt(_receipt(0))
    assert set(job.receipts()) == {0}

    collection.store.delete(collection.key(f"codecs/{codec.id}/config.json"))
    assert job.receipts() == {}
    job.recover()
    assert job.pins() is None
    assert job.put_receipt(_receipt(0, None)).entry is None


def test_without_its_dictionary_a_job_begins_afresh(job: JobFolder, collection: Collection) -> None:
    """As without its codec."""
    codec = _put_codec(collection)
    digest = collection.put_dictionary(b"a dictionary")
    job.put_pins(JobPins(codec_id=codec.id, dictionary=digest, reconstruction_error=None))
    job.put_receipt(_receipt(0, None))
    assert set(job.receipts()) == {0}

    collection.store.delete(collection.key(f"dicts/{digest}.zstd"))
    assert job.receipts() == {}


def test_an_unfinished_file_is_no_receipt(job: JobFolder, collection: Collection) -> None:
    """A writer that was killed leaves a temporary file behind."""
    job.put_receipt(_receipt(0, None))
    collection.store.put(collection.key(f"jobs/{job.job_id}/receipts/.tmp-1"), b'{"sha')

    assert set(job.receipts()) == {0}


def test_a_damaged_receipt_is_an_error(
    job: JobFolder, collection: Collection, tmp_path: Path
) -> None:
    """It is never taken for an absent one, nor believed."""
    job.put_receipt(_receipt(0, None))
    (path,) = tmp_path.glob("store/default/jobs/*/receipts/*.json")
    path.write_bytes(path.read_bytes().replace(b"corpus", b"Corpus"))

    with pytest.raises(CorruptionError, match="receipts/00000000"):
        job.receipts()


def test_attempts_are_counted_until_one_comes_to_an_end(job: JobFolder) -> None:
    """Each partition has a count of its own."""
    begun = [job.begin(3), job.begin(3), job.begin(4)]
    job.forget_attempts(3)

    assert begun == [1, 2, 1]
    assert (job.begin(3), job.begin(4)) == (1, 2)
    job.recover()
    assert (job.begin(3), job.begin(4)) == (1, 1)


def test_dead_letters_are_json_lines(job: JobFolder) -> None:
    """A user can read them where the answer says."""
    bad = [BadRecord("naïve.jsonl", 3, "the id is empty"), BadRecord("b", 1, "no field 'id'")]

    lines = Path(job.put_dead_letters(bad)).read_text(encoding="utf-8").splitlines()

    assert [BadRecord(**json.loads(line)) for line in lines] == bad


def test_jobs_are_listed_by_their_specs(
    collection: Collection, make_jobs: Callable[[], set[str]]
) -> None:
    """A folder without a spec is no job."""
    planned = make_jobs()
    JobFolder(collection, "0" * 32).put_receipt(_receipt(0, None))

    assert {found.job_id for found in list_jobs(collection)} == planned


@pytest.fixture
def make_jobs(collection: Collection) -> Callable[[], set[str]]:
    """Plan two jobs; return their ids."""

    def make() -> set[str]:
        specs = [SPEC, replace(SPEC, inputs={"b.jsonl": "0" * 64})]
        for spec in specs:
            JobFolder(collection, spec.job_id).put_spec(spec)
        return {spec.job_id for spec in specs}

    return make
