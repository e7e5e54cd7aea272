"""The stages that every partition goes through, without anything that drives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoder_jobs.prepare import prepare_job
from encoder_jobs.records import JobPlace
from encoder_jobs.stages import (
    PartitionEncoder,
    TokenizedPartition,
    cached_encoder,
    cached_splitter,
    encode_passages,
    tokenize,
)
from memstore import ProductCodec
from memstore.encoders import EncoderOptions, read_identity
from memstore.errors import EncoderMismatchError
from memstore.storage import ShardEntry
from memstore.text import BadRecord, Partition
from memstore.types import Document, Passage, TokenizedPassage
from tests.tiny import make_records, save_encoder

Plan = Callable[..., tuple[JobPlace, tuple[Partition, ...]]]


def _same(one: TokenizedPartition, other: TokenizedPartition) -> bool:
    same_ids = all(
        a.token_ids.dtype == b.token_ids.dtype == np.int32
        and np.array_equal(a.token_ids, b.token_ids)
        for a, b in zip(one.passages, other.passages, strict=True)
    )
    return (
        same_ids
        and one.number == other.number
        and one.bad_records == other.bad_records
        and [p.passage for p in one.passages] == [p.passage for p in other.passages]
    )


def test_a_tokenized_partition_survives_the_journey() -> None:
    """Texts of any script, metadata of every type and its order of size, and bad records."""
    passage = Passage(
        document_id="naïve#1",
        number=3,
        text="日本語 — café 😀\u2028\x00",
        title="Tïtle",
        start=5,
        end=17,
        num_tokens=3,
        metadata={"year": -(2**63), "big": 2**63 - 1, "w": 0.1, "ok": True, "no": None, "s": "ß"},
    )
    partition = TokenizedPartition(
        number=7,
        passages=[
            TokenizedPassage(passage, np.array([2, 30_000, 3], np.int32)),
            TokenizedPassage(replace(passage, number=4, metadata={}), np.array([1], np.int32)),
        ],
        bad_records=[BadRecord("ü.jsonl", 12, "the id is empty")],
    )

    back = TokenizedPartition.from_bytes(partition.to_bytes())

    assert _same(back, partition)
    kinds = {name: type(value) for name, value in back.passages[0].passage.metadata.items()}
    assert kinds["ok"] is bool
    assert kinds["w"] is float
    assert kinds["year"] is int


def test_an_empty_partition_survives_the_journey() -> None:
    """A partition of bad records alone has no passages."""
    partition = TokenizedPartition(0, [], [BadRecord("a", 1, "the id is empty")])

    assert _same(TokenizedPartition.from_bytes(partition.to_bytes()), partition)


def test_tokenizing_keeps_the_order_and_casts_metadata(
    plan: Plan, encoder_options: EncoderOptions
) -> None:
    """Passages follow their documents, and a column has one type in all partitions."""
    _, partitions = plan(6)
    splitter = cached_splitter(encoder_options)

    tokenized = [tokenize(p, splitter, {"year": "double", "lang": "string"}) for p in partitions]

    order = [p.passage.document_id for part in tokenized for p in part.passages]
    assert [part.number for part in tokenized] == list(range(len(partitions)))
    assert list(dict.fromkeys(order)) == [record["id"] for record in make_records(6)]
    years = {p.passage.metadata["year"] for part in tokenized for p in part.passages}
    assert {type(year) for year in years} == {float}


def test_codes_stand_in_the_order_of_the_passages(encoder_options: EncoderOptions) -> None:
    """Whatever batches the encoder forms: each passage has the codes and the vector that it has
    when it is encoded alone.
    """
    encoder = cached_encoder(encoder_options, read_identity(encoder_options).id)
    splitter = cached_splitter(encoder_options)
    passages = [
        passage
        for record in make_records(12)
        for passage in splitter.split(Document(record["id"], record["text"], record["title"]))
    ]
    vectors = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)
    codec = ProductCodec.train(vectors, num_subspaces=4, codebook_size=4)

    records, embeddings = encode_passages(encoder, codec, passages)

    start = 0
    for row, passage in enumerate(passages):
        (alone,) = encoder.encode([passage])
        end = start + len(passage.token_ids)
        decoded = codec.decode(records[start:end])
        wanted = codec.decode(codec.encode(alone.memories))
        assert (decoded == wanted).mean() > 0.9  # batches move a memory by a rounding error
        np.testing.assert_allclose(embeddings[row], alone.embeddings[0], atol=1e-5)
        start = end
    assert start == len(records)


def test_the_search_that_was_chosen_is_used(encoder_options: EncoderOptions) -> None:
    """With a codebook so large that the fast search misses some nearest centroids."""
    encoder = cached_encoder(encoder_options, read_identity(encoder_options).id)
    text = " ".join(record["text"] for record in make_records(12))
    passage = cached_splitter(encoder_options).split(Document("d", text))[0]
    (alone,) = encoder.encode([passage])
    codebook = np.random.default_rng(0).standard_normal((2, 16_384, 16)).astype(np.float32)
    codec = ProductCodec(codebook)

    found = {
        search: encode_passages(encoder, codec, [passage], search=search)[0]
        for search in ("exact", "fast")
    }

    for search, records in found.items():
        np.testing.assert_array_equal(records, codec.encode(alone.memories, search=search))
    assert (found["exact"] != found["fast"]).any()


def test_an_encoder_that_is_not_the_jobs_is_refused(tmp_path: Path) -> None:
    """A machine whose checkpoint differs makes no shard."""
    options = EncoderOptions(source=str(save_encoder(tmp_path / "encoder", seed=3)))

    with pytest.raises(EncoderMismatchError, match="the same checkpoint on every machine"):
        cached_encoder(options, "0" * 64)


@pytest.fixture
def prepared(plan: Plan, encoder_options: EncoderOptions) -> tuple[JobPlace, TokenizedPartition]:
    """A job with its pins, and its first partition."""
    place, partitions = plan(4)
    for _ in prepare_job(place, partitions):
        pass
    columns = place.open().spec().metadata_columns
    return place, tokenize(partitions[0], cached_splitter(encoder_options), columns)


def test_a_partition_becomes_one_shard_and_one_receipt(
    prepared: tuple[JobPlace, TokenizedPartition],
) -> None:
    """The receipt describes the shard; a second worker makes the same one and gets the same
    receipt.
    """
    place, partition = prepared

    first = PartitionEncoder(place)(partition)
    second = PartitionEncoder(place)(partition)

    entry = first.entry
    assert isinstance(entry, ShardEntry)
    assert first == second == place.open().receipts()[0]
    assert (entry.num_passages, entry.num_tokens) == (
        len(partition.passages),
        sum(len(passage.token_ids) for passage in partition.passages),
    )
    shards = list(Path(place.location).glob("default/shards/*"))
    assert [shard.name for shard in shards] == [f"{entry.shard_id}.arrow"]
    assert entry.shard_id.startswith(f"{place.job_id[:16]}-00000000-")


def test_a_partition_without_passages_has_no_shard(
    prepared: tuple[JobPlace, TokenizedPartition],
) -> None:
    """Its receipt carries the bad records alone."""
    place, _ = prepared
    bad = BadRecord("corpus.jsonl", 1, "the id is empty")

    receipt = PartitionEncoder(place)(TokenizedPartition(1, [], [bad]))

    assert (receipt.entry, receipt.bad_records) == (None, (bad,))
    assert not list(Path(place.location).glob("default/shards/*"))
