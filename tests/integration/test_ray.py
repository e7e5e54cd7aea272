"""The encoding job through a local Ray: the same shards as in one process; failures that end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from encoder_jobs.records import JobPlace
from encoder_jobs.runners import RayRunner
from memstore import ProductCodec
from memstore.encoders import EncoderOptions
from memstore.errors import CorruptionError, InternalError, InvalidInputError, ShapeError
from memstore.text import Partition, open_corpus, scan
from tests.integration.conftest import Done
from tests.processes import command_of, descendants, end
from tests.tiny import WORDS, make_records, published, save_encoder, write_jsonl

pytestmark = pytest.mark.ray

PARTITION_BYTES = 1500


@pytest.fixture(scope="module")
def ray_runner() -> Iterator[RayRunner]:
    """One Ray for the module; jobs that ask for `--ray local` find it running and leave it so."""
    runner = RayRunner("local")
    yield runner
    runner.close()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Eight documents in a few partitions."""
    return write_jsonl(tmp_path / "corpus.jsonl", make_records(8))


def _planned(corpus: Path) -> tuple[Partition, ...]:
    return scan(open_corpus(corpus), partition_bytes=PARTITION_BYTES).partitions


@pytest.fixture
def place(
    encode: Callable[..., Done], corpus: Path, tmp_path: Path, tiny_encoder: Path
) -> JobPlace:
    """A job that is planned and pinned (and done, by this process)."""
    report = encode(corpus).json()
    encoder = EncoderOptions(source=str(tiny_encoder), window_tokens=32)
    return JobPlace(str(tmp_path / "store"), "default", report["job_id"], encoder)


def test_ray_and_one_process_make_the_same_shards(
    ray_runner: RayRunner, encode: Callable[..., Done], corpus: Path, tmp_path: Path
) -> None:
    """Codec, shards, passages and codes are equal to the byte, bad records are the same."""
    with corpus.open("ab") as file:
        file.write(b"{\n")
    alone = encode(corpus, store=tmp_path / "alone")
    by_ray = encode(corpus, store=tmp_path / "ray", ray="local")

    assert ray_runner.num_encoders == 1
    assert (alone.code, by_ray.code) == (5, 5)
    assert published(tmp_path / "ray") == published(tmp_path / "alone")
    differing = {"seconds", "dead_letters"}
    assert {k: v for k, v in by_ray.json().items() if k not in differing} == {
        k: v for k, v in alone.json().items() if k not in differing
    }


def test_an_error_in_a_tokenizing_task_arrives_as_itself(
    ray_runner: RayRunner, place: JobPlace, corpus: Path
) -> None:
    """The corpus lost its end since it was scanned: the class and message of the library, not
    Ray's wrapping of them.
    """
    partitions = _planned(corpus)
    corpus.write_bytes(b"".join(corpus.read_bytes().splitlines(keepends=True)[:-1]))

    with pytest.raises(InvalidInputError, match="the file has changed since") as caught:
        list(ray_runner.encode(place, place.open().spec(), partitions))

    assert type(caught.value) is InvalidInputError
    assert "Traceback" not in str(caught.value)


def test_an_error_in_an_encoders_start_arrives_as_itself(
    ray_runner: RayRunner, place: JobPlace, corpus: Path
) -> None:
    """A damaged codec ends the job; encoders are not started for ever."""
    (tensors,) = Path(place.location).glob("default/codecs/*/codec.safetensors")
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)

    with pytest.raises(CorruptionError) as caught:
        list(ray_runner.encode(place, place.open().spec(), _planned(corpus)))

    assert type(caught.value) is CorruptionError
    assert "Traceback" not in str(caught.value)


def test_a_poison_partition_ends_the_job_with_its_own_error(
    ray_runner: RayRunner, encode: Callable[..., Done], tmp_path: Path
) -> None:
    """A passage that the encoder cannot take is not tried for ever; what other partitions gave is
    kept, and nothing is published.
    """
    encoder = save_encoder(tmp_path / "small", vocab_size=4 + len(WORDS) - 1)  # lacks the last word
    vectors = np.random.default_rng(0).standard_normal((400, 32)).astype(np.float32)
    ProductCodec.train(vectors, num_subspaces=8, codebook_size=8).save(tmp_path / "codec")
    records = [{"id": str(i), "text": "cold water " * 60} for i in range(8)]
    records[6]["text"] += WORDS[-1]
    corpus = write_jsonl(tmp_path / "poison.jsonl", records)

    sample_of_heads = ("--codec", tmp_path / "codec", "--codec-sample-tokens", 1)
    done = encode(corpus, "--encoder", encoder, *sample_of_heads, ray="local")

    assert done.code == ShapeError.exit_code
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "token ids" in done.err
    assert not list((tmp_path / "store").glob("default/versions/*"))


@pytest.mark.slow
def test_a_partition_that_ends_its_workers_is_not_tried_for_ever(
    ray_runner: RayRunner, place: JobPlace, corpus: Path
) -> None:
    """Every encoder is killed as soon as it is there: the job gives up, and says what to do."""
    stopped = threading.Event()
    killed: set[int] = set()

    def is_encoding(command: str) -> bool:
        return "EncodeRow" in command and "submit" in command

    def kill_encoders() -> None:
        while not stopped.wait(0.05):
            found = {pid for pid in descendants(os.getpid()) if is_encoding(command_of(pid))}
            killed.update(found)
            end(sorted(found))

    hunter = threading.Thread(target=kill_encoders)
    hunter.start()
    try:
        with pytest.raises(InternalError, match=r"4 workers ended while encoding it .*'doc-"):
            list(ray_runner.encode(place, place.open().spec(), _planned(corpus)))
    finally:
        stopped.set()
        hunter.join()
    assert 4 <= len(killed) < 20
