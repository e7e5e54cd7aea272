"""Encoding jobs by the command line, in this process: what they make, refuse and leave alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import memstore
from memstore import Store, open_store
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.types import Document
from tests.integration.conftest import Done
from tests.integration.stores import documents_of, nothing_written, texts_of
from tests.tiny import make_records, published, save_encoder

Encode = Callable[..., Done]
Cli = Callable[..., Done]


def test_a_finished_job_is_left_alone(encode: Encode, corpus: Path, store: Path) -> None:
    """The second run writes nothing, says so and exits with 0."""
    first = encode(corpus)
    with nothing_written(store):
        second = encode(corpus)

    assert (first.code, second.code) == (0, 0)
    assert (first.json()["already_done"], second.json()["already_done"]) == (False, True)
    assert "nothing to do" in second.err
    same = ("job_id", "version", "num_passages", "num_tokens", "shard_bytes", "num_documents")
    assert [first.json()[name] for name in same] == [second.json()[name] for name in same]


def test_a_moved_corpus_and_store_are_the_same_job(
    encode: Encode, corpus: Path, tmp_path: Path
) -> None:
    """Where the input and the store lie decides nothing: the same shards, and still finished."""
    first = encode(corpus)
    (tmp_path / "elsewhere").mkdir()
    moved = corpus.rename(tmp_path / "elsewhere" / corpus.name)
    (tmp_path / "store").rename(tmp_path / "elsewhere" / "store")

    again = encode(moved, store=tmp_path / "elsewhere" / "store")
    afresh = encode(moved, store=tmp_path / "third")

    assert again.json()["already_done"]
    assert again.json()["job_id"] == afresh.json()["job_id"] == first.json()["job_id"]
    assert published(tmp_path / "third") == published(tmp_path / "elsewhere" / "store")


def test_a_job_whose_encoder_moved_goes_on(
    encode: Encode, corpus: Path, store: Path, tmp_path: Path
) -> None:
    """The same checkpoint at another place finishes what was begun; the version names it."""
    first = encode(corpus, "--encoder", save_encoder(tmp_path / "before")).json()
    for path in (*store.glob("default/versions/*"), min(store.glob("default/shards/*"))):
        path.unlink()
    moved = (tmp_path / "before").rename(tmp_path / "after")

    again = encode(corpus, "--encoder", moved)

    manifest = open_store(store).collection("default").snapshot().manifest
    assert (again.json()["job_id"], again.json()["num_encoded"]) == (first["job_id"], 1)
    assert manifest.encoder["options"]["source"] == str(moved)


def test_memories_decode_close_to_the_encoders_own_output(
    encode: Encode, corpus: Path, store: Path, tiny_encoder: Path
) -> None:
    """What comes back for every passage is what the encoder makes of it, within the error that the
    report states, and the retrieval vectors are the encoder's to float16.
    """
    report = encode(corpus).json()
    options = EncoderOptions(source=str(tiny_encoder), window_tokens=32)
    encoder, splitter = load_encoder(options), load_splitter(options)
    passages = [
        passage
        for record in make_records(12)
        for passage in splitter.split(Document(record["id"], record["text"], record["title"]))
    ]

    stored = open_store(store).fetch([passage.passage.passage_id for passage in passages])
    snapshot = open_store(store).collection("default").snapshot()
    position = {name: i for i, name in enumerate(snapshot.column("passage_id").to_pylist())}
    squared_error = squares = 0.0
    for batch in encoder.encode(passages):
        for i, row in enumerate(batch.rows):
            memory = batch.memories[batch.offsets[i] : batch.offsets[i + 1]]
            decoded = stored.memories[row].decode()
            assert decoded.shape == memory.shape
            squared_error += float(((decoded - memory) ** 2).sum())
            squares += float((memory**2).sum())
            place = position[stored.passages[row].passage_id]
            vector = snapshot.embedding_rows(np.array([place]))[0]
            np.testing.assert_allclose(vector, batch.embeddings[i], atol=1e-3)
    assert 0 < report["reconstruction_error"] < 1
    assert 0 < squared_error / squares < 2 * report["reconstruction_error"]


def test_a_second_corpus_is_appended(
    encode: Encode, corpus: Path, other: Path, store: Path
) -> None:
    """Both are there afterwards, with the first one's codec; the older version has the first."""
    encode(corpus)
    first = published(store)
    done = encode(other)

    assert (done.code, done.json()["version"]) == (0, 2)
    assert done.json()["reconstruction_error"] is None
    assert first.items() <= published(store).items()
    assert documents_of(store, 1) | {f"other-{n}" for n in range(4)} == documents_of(store, 2)


def test_an_upsert_supersedes_whole_documents(
    encode: Encode, corpus: Path, changed: Path, store: Path
) -> None:
    """All passages of a known document go, also those that the new text has no counterpart for."""
    encode(corpus)
    before = texts_of(store)
    done = encode(changed, "--mode", "upsert")

    after = texts_of(store)
    new = {record["id"]: record["text"] for record in map(json.loads, changed.open())}
    assert done.code == 0
    assert done.json()["num_superseded"] > 3
    assert after == {**before, **new}


def test_an_upsert_that_was_superseded_can_be_published_again(
    encode: Encode, corpus: Path, changed: Path, store: Path
) -> None:
    """The first corpus comes back without being encoded again; then the job is finished."""
    encode(corpus, "--mode", "upsert")
    before = texts_of(store)
    encode(changed, "--mode", "upsert")
    back = encode(corpus, "--mode", "upsert")

    assert (back.json()["already_done"], back.json()["num_encoded"]) == (False, 0)
    assert {name: text for name, text in texts_of(store).items() if name != "new"} == before
    assert encode(corpus, "--mode", "upsert").json()["already_done"]


def test_replacing_starts_afresh(encode: Encode, corpus: Path, other: Path, store: Path) -> None:
    """Only the new corpus is there; the older version still has the old one."""
    encode(corpus)
    done = encode(other, "--mode", "replace")

    assert done.code == 0
    assert documents_of(store) == {f"other-{number}" for number in range(4)}
    assert documents_of(store, 1) == {f"doc-{number}" for number in range(12)}


def test_a_job_that_was_replaced_is_published_again_without_encoding(
    encode: Encode, corpus: Path, other: Path, store: Path
) -> None:
    """Its receipts still hold: the same shards come back as a new version."""
    encode(corpus, "--mode", "replace")
    first = published(store)
    encode(other, "--mode", "replace")
    again = encode(corpus, "--mode", "replace")

    report = again.json()
    assert (again.code, report["version"], report["num_encoded"]) == (0, 3, 0)
    assert published(store) == first


def test_a_replacement_that_was_added_to_replaces_again(
    encode: Encode, corpus: Path, other: Path, store: Path
) -> None:
    """`replace` means that the collection holds this corpus and nothing else."""
    encode(corpus, "--mode", "replace")
    first = published(store)
    encode(other)
    encode(corpus, "--mode", "replace")

    assert published(store) == first


def test_deleting_does_not_bring_a_finished_job_back(
    encode: Encode, cli: Cli, corpus: Path, store: Path
) -> None:
    """What a user deleted stays deleted when the job is run again."""
    encode(corpus)
    cli("collection", "delete", "--store", store, "--document", "doc-3")
    again = encode(corpus)

    assert again.json()["already_done"]
    assert "doc-3" not in documents_of(store)


def test_shards_that_were_collected_are_encoded_again(
    encode: Encode, cli: Cli, corpus: Path, other: Path, store: Path
) -> None:
    """Receipts without their shards do not count."""
    encode(corpus, "--mode", "replace")
    first = published(store)
    encode(other, "--mode", "replace")
    keep_one = ("--keep-versions", 1, "--grace-hours", 0, "--execute")
    cli("collection", "gc", "--store", store, *keep_one)

    again = encode(corpus, "--mode", "replace")

    assert again.json()["num_encoded"] == again.json()["num_partitions"]
    assert published(store) == first


def test_a_filter_reads_the_metadata_of_the_corpus(
    encode: Encode, cli: Cli, corpus: Path, store: Path
) -> None:
    """Columns have the types that the corpus shows."""
    encode(corpus)
    where = "year >= 2004 and year < 2008 and lang = 'de'"
    found = cli("query", "cold sea", "--store", store, "--where", where, "--output", "json").json()

    assert open_store(store).collection_info().metadata_columns == {
        "lang": "string",
        "year": "int64",
    }
    assert {hit["document_id"] for hit in found["hits"]} == {"doc-5", "doc-7"}
    assert all(hit["metadata"]["lang"] == "de" for hit in found["hits"])


def test_passages_are_deleted_by_passage_document_and_filter(
    encode: Encode, cli: Cli, corpus: Path, store: Path
) -> None:
    """Each makes a version; older versions keep what was deleted."""
    encode(corpus)
    deleted = [
        cli("collection", "delete", "--store", store, *which)
        for which in (
            ("--passage", "doc-0#0"),
            ("--document", "doc-1", "--document", "doc-2"),
            ("--where", "year >= 2010"),
        )
    ]

    assert [done.code for done in deleted] == [0, 0, 0]
    assert "version 4" in deleted[2].out
    assert cli("fetch", "doc-0#0", "--store", store).code == 3
    assert documents_of(store) & {"doc-1", "doc-2", "doc-10", "doc-11"} == set()
    assert cli("fetch", "doc-0#0", "--store", store, "--version", 1).code == 0
    old = cli("query", "cold sea", "--store", store, "--version", 1, "--output", "json").json()
    assert old["version"] == 1
    assert documents_of(store, 1) == {f"doc-{number}" for number in range(12)}


def test_versions_can_be_listed_and_shown(
    encode: Encode, cli: Cli, corpus: Path, other: Path, store: Path
) -> None:
    """`collection ls`, `show` and `versions`, as tables and as JSON."""
    encode(corpus)
    encode(other)

    listed = cli("collection", "ls", "--store", store, "--output", "json").json()
    shown = cli("collection", "show", "--store", store, "--version", 1, "--output", "json").json()
    versions = cli("collection", "versions", "--store", store, "--output", "json").json()

    assert [(info["name"], info["version"]) for info in listed] == [("default", 2)]
    assert shown["num_passages"] < listed[0]["num_passages"]
    assert [info["operation"] for info in versions] == ["append", "append"]
    assert "num_passages" in cli("collection", "ls", "--store", store).out
    assert "record_bytes" in cli("collection", "show", "--store", store).out


def test_gc_says_what_it_would_delete_and_deletes_it_when_told(
    encode: Encode, cli: Cli, corpus: Path, other: Path, store: Path
) -> None:
    """The dry run changes nothing; afterwards the old version is gone and the new one whole."""
    encode(corpus)
    encode(other, "--mode", "replace")
    plan = ("collection", "gc", "--store", store, "--keep-versions", 1, "--grace-hours", 0)
    with nothing_written(store):
        dry = cli(*plan, "--output", "json").json()
    done = cli(*plan, "--execute", "--output", "json").json()

    assert dry["dry_run"]
    assert set(dry["deleted"]) == set(done["deleted"])
    assert any(key.startswith("shards/") for key in done["deleted"])
    assert not [key for key in done["deleted"] if (store / "default" / key).exists()]
    assert cli("collection", "show", "--store", store, "--version", 1).code == 3
    assert cli("collection", "verify", "--store", store).code == 0


def test_verify_finds_a_flipped_bit(encode: Encode, cli: Cli, corpus: Path, store: Path) -> None:
    """A whole collection passes; a damaged one exits with 1 and names the object."""
    encode(corpus)
    whole = cli("collection", "verify", "--store", store)
    shard = min(store.glob("default/shards/*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)

    damaged = cli("collection", "verify", "--store", store)

    assert (whole.code, damaged.code) == (0, 1)
    assert "0 problems" in whole.out
    assert shard.name in damaged.out


def test_jobs_can_be_listed_and_shown(encode: Encode, cli: Cli, corpus: Path, store: Path) -> None:
    """`job ls` and `job show` tell options and progress; an unknown job exits with 3."""
    report = encode(corpus).json()

    (listed,) = cli("job", "ls", "--store", store, "--output", "json").json()
    shown = cli("job", "show", report["job_id"], "--store", store, "--output", "json").json()

    assert listed["job_id"] == report["job_id"]
    assert listed["num_done"] == listed["num_partitions"] == report["num_partitions"] > 1
    assert shown["options"]["mode"] == "append"
    assert list(shown["inputs"]) == ["corpus.jsonl"]
    assert report["job_id"] in cli("job", "ls", "--store", store).out
    assert "mode" in cli("job", "show", report["job_id"], "--store", store).out
    assert cli("job", "show", "nope", "--store", store).code == 3


def test_python_and_the_command_line_make_the_same_shards(
    encode: Encode, corpus: Path, store: Path, tmp_path: Path, tiny_encoder: Path
) -> None:
    """`memstore.encode` is the same job, given a store or its path."""
    by_command = encode(corpus).json()
    options: dict[str, Any] = {
        "encoder": str(tiny_encoder),
        "window_tokens": 32,
        "partition_bytes": 1500,
        "quiet": True,
    }
    opened: Store = open_store(tmp_path / "python")
    report = memstore.encode(str(corpus), store=opened, **options)

    assert report.job_id == by_command["job_id"]
    assert published(tmp_path / "python") == published(store)
    assert opened.query("cold sea", top_k=1).version == report.version
    assert memstore.encode(str(corpus), store=str(tmp_path / "python"), **options).already_done


def test_an_estimate_comes_before_the_work(encode: Encode, corpus: Path) -> None:
    """Documents, tokens, bytes a token and time are told before the first partition is encoded, and
    the figures are right for a corpus that is looked at whole.
    """
    done = encode(corpus)
    report, lines = done.json(), done.err.splitlines()

    assert any(line.startswith(f"job {report['job_id']}: 12 documents") for line in lines)
    (estimate,) = [line for line in lines if line.startswith("to encode: ")]
    assert f"about {report['num_tokens']:,} tokens in {report['num_passages']} pass" in estimate
    assert "64 → 4 bytes a token" in estimate
    speed = next(number for number, line in enumerate(lines) if "tokens/s each: about" in line)
    assert lines.index(estimate) < speed
    assert speed < next(n for n, line in enumerate(lines) if line.startswith("encoding, text"))


def test_a_job_that_goes_on_says_how_much_is_done(
    encode: Encode, corpus: Path, store: Path
) -> None:
    """After a loss of some shards, only those are encoded again."""
    whole = encode(corpus, "--mode", "replace").json()
    for path in (*store.glob("default/versions/*"), min(store.glob("default/shards/*"))):
        path.unlink()

    again = encode(corpus, "--mode", "replace")

    assert again.json()["num_encoded"] == 1
    assert f", {whole['num_partitions'] - 1} of them done" in again.err
    assert again.json()["num_tokens"] == whole["num_tokens"]


def test_quiet_prints_the_report_alone(
    cli: Cli, corpus: Path, tiny_encoder: Path, store: Path
) -> None:
    """As a table on stdout; stderr stays empty."""
    options = ("--encoder", tiny_encoder, "--window-tokens", 32, "--quiet")
    done = cli("encode", corpus, "--store", store, *options)

    fields = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert done.code == 0
    assert done.err == ""
    assert fields["num_documents"] == "12"
    assert fields["already_done"] == "false"
