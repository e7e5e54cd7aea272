"""Encoding jobs by the command line, in this process: what they make, refuse and leave alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memstore
from memstore import ProductCodec, Store, open_store
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.types import Document
from tests.integration.conftest import Done
from tests.tiny import make_records, published, save_encoder, write_jsonl

Encode = Callable[..., Done]
Cli = Callable[..., Done]


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and the time of its last change."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextmanager
def _nothing_written(folder: Path) -> Iterator[None]:
    before = _files(folder)
    yield
    assert _files(folder) == before


def _documents(store: Path, version: int | None = None) -> set[str]:
    snapshot = open_store(store).collection("default").snapshot(version)
    names = snapshot.column("document_id").to_pylist()
    return {name for name, is_live in zip(names, snapshot.live, strict=True) if is_live}


def _texts(store: Path) -> dict[str, str]:
    """The live text of each document."""
    snapshot = open_store(store).collection("default").snapshot()
    texts: dict[str, str] = {}
    for row in np.flatnonzero(snapshot.live):
        passage = snapshot.passage(int(row))
        texts[passage.document_id] = f"{texts.get(passage.document_id, '')} {passage.text}".strip()
    return texts


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder that `encode` writes to."""
    return tmp_path / "store"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Twelve documents in five or so partitions."""
    return write_jsonl(tmp_path / "corpus.jsonl", make_records(12))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Four documents of other ids."""
    return write_jsonl(tmp_path / "other.jsonl", make_records(4, prefix="other"))


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """New texts, much shorter, for three documents of `corpus`, and one document that is new."""
    records = [
        {**record, "text": f"new {record['text'][:20].strip()}"} for record in make_records(3)
    ]
    return write_jsonl(
        tmp_path / "changed.jsonl", [*records, {**records[0], "id": "new", "text": "fog and bell"}]
    )


def test_a_finished_job_is_left_alone(encode: Encode, corpus: Path, store: Path) -> None:
    """The second run writes nothing, says so and exits with 0."""
    first = encode(corpus)
    with _nothing_written(store):
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
    assert _documents(store, 1) | {f"other-{n}" for n in range(4)} == _documents(store, 2)


def test_appending_known_documents_is_refused_before_any_encoding(
    encode: Encode, corpus: Path, changed: Path, store: Path
) -> None:
    """Exit code 4, known ids in the message, and nothing written."""
    encode(corpus)
    with _nothing_written(store):
        done = encode(changed)

    assert done.code == 4
    assert "'doc-0', 'doc-1', 'doc-2'" in done.err
    assert "--mode upsert" in done.err


def test_the_refusal_names_no_more_than_ten_known_documents(
    encode: Encode, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many batches of ids hold known ones."""
    monkeypatch.setattr("encoder_jobs.admission._ID_BATCH", 2)
    encode(corpus)
    grown = write_jsonl(tmp_path / "grown.jsonl", make_records(14))

    done = encode(grown)

    assert done.code == 4
    assert done.err.count("'doc-") == 10


def test_an_upsert_supersedes_whole_documents(
    encode: Encode, corpus: Path, changed: Path, store: Path
) -> None:
    """All passages of a known document go, also those that the new text has no counterpart for."""
    encode(corpus)
    before = _texts(store)
    done = encode(changed, "--mode", "upsert")

    after = _texts(store)
    new = {record["id"]: record["text"] for record in map(json.loads, changed.open())}
    assert done.code == 0
    assert done.json()["num_superseded"] > 3
    assert after == {**before, **new}


def test_an_upsert_that_was_superseded_can_be_published_again(
    encode: Encode, corpus: Path, changed: Path, store: Path
) -> None:
    """The first corpus comes back without being encoded again; then the job is finished."""
    encode(corpus, "--mode", "upsert")
    before = _texts(store)
    encode(changed, "--mode", "upsert")
    back = encode(corpus, "--mode", "upsert")

    assert (back.json()["already_done"], back.json()["num_encoded"]) == (False, 0)
    assert {name: text for name, text in _texts(store).items() if name != "new"} == before
    assert encode(corpus, "--mode", "upsert").json()["already_done"]


def test_replacing_starts_afresh(encode: Encode, corpus: Path, other: Path, store: Path) -> None:
    """Only the new corpus is there; the older version still has the old one."""
    encode(corpus)
    done = encode(other, "--mode", "replace")

    assert done.code == 0
    assert _documents(store) == {f"other-{number}" for number in range(4)}
    assert _documents(store, 1) == {f"doc-{number}" for number in range(12)}


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
    assert "doc-3" not in _documents(store)


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


def test_bad_records_go_to_a_file_with_their_reasons(
    encode: Encode, corpus: Path, store: Path, tmp_path: Path
) -> None:
    """Exit code 5 and a file that names each record and why; the rest is there. The second run
    exits with 0.
    """
    lines = corpus.read_bytes().splitlines(keepends=True)
    lines[2:2] = [b'{"id": "broken", \n', b'{"id": "x", "text": "secret \xff"}\n']
    lines += [b'{"text": "no id"}\n', b'{"id": "y", "text": 3}\n']
    corpus.write_bytes(b"".join(lines))

    first, second = encode(corpus), encode(corpus)

    letters = Path(first.json()["dead_letters"])
    found = [json.loads(line) for line in letters.read_text(encoding="utf-8").splitlines()]
    assert (first.code, second.code) == (5, 0)
    assert "4 records" in first.err
    assert str(letters) in first.err
    assert [(bad["file"], bad["record"]) for bad in found] == [
        ("corpus.jsonl", number) for number in (3, 4, 15, 16)
    ]
    reasons = (
        "broken JSON at column",
        "invalid UTF-8 at byte 2",
        "no field 'id'",
        "the text is an",
    )
    assert all(start in bad["reason"] for start, bad in zip(reasons, found, strict=True))
    assert "secret" not in letters.read_text(encoding="utf-8")
    assert _documents(store) == {f"doc-{number}" for number in range(12)}


def test_duplicate_ids_are_refused_before_anything_is_written(
    encode: Encode, store: Path, tmp_path: Path
) -> None:
    """Exit code 2; the message lists the first ten with their places."""
    corpus = write_jsonl(tmp_path / "twice.jsonl", make_records(12) + make_records(12))

    done = encode(corpus)

    assert done.code == 2
    assert "12 documents have the id of one before" in done.err
    assert done.err.count("'doc-") == 10
    assert "'doc-0' (twice.jsonl:1 and twice.jsonl:13)" in done.err
    assert not store.exists()


def test_another_encoder_is_refused_by_name(
    encode: Encode, corpus: Path, other: Path, store: Path, tmp_path: Path, tiny_encoder: Path
) -> None:
    """Exit code 4; both encoders are named; nothing is written."""
    encode(corpus)
    stranger = save_encoder(tmp_path / "stranger", seed=1)
    with _nothing_written(store):
        done = encode(other, "--encoder", stranger)

    assert done.code == 4
    assert str(stranger) in done.err
    assert str(tiny_encoder) in done.err


def test_another_cut_of_the_same_encoder_is_another_encoder(
    encode: Encode, corpus: Path, other: Path
) -> None:
    """`--live-fraction` decides what a memory is."""
    encode(corpus)

    assert encode(other, "--live-fraction", "2/3").code == 4


def _train_codec(folder: Path) -> ProductCodec:
    vectors = np.random.default_rng(0).standard_normal((800, 32)).astype(np.float32)
    codec = ProductCodec.train(vectors, num_subspaces=8, codebook_size=16, seed=0)
    codec.save(folder)
    return codec


def test_a_codec_can_be_given_as_a_folder_or_by_id(
    encode: Encode, corpus: Path, other: Path, store: Path, tmp_path: Path
) -> None:
    """The folder's codec is taken into the collection, and names the same job as its id does."""
    codec = _train_codec(tmp_path / "codec")
    first = encode(corpus, "--codec", tmp_path / "codec")

    by_id = encode(corpus, "--codec", codec.id)
    assert (first.code, first.json()["record_bytes"]) == (0, 2 * codec.record_words)
    assert by_id.json()["already_done"]
    assert open_store(store).collection_info().codec_id == codec.id
    assert encode(other, "--codec", codec.id).code == 0


def test_another_codec_is_refused_before_any_encoding(
    encode: Encode, corpus: Path, other: Path, store: Path, tmp_path: Path
) -> None:
    """Exit code 4, and no shard of the refused job."""
    encode(corpus)
    pinned = open_store(store).collection_info().codec_id
    shards = set(store.glob("default/shards/*"))
    codec = _train_codec(tmp_path / "codec")

    done = encode(other, "--codec", tmp_path / "codec")

    assert done.code == 4
    assert pinned[:16] in done.err
    assert codec.id[:16] in done.err
    assert set(store.glob("default/shards/*")) == shards


def test_a_codec_of_another_width_is_refused(encode: Encode, corpus: Path, tmp_path: Path) -> None:
    """The message gives both widths."""
    vectors = np.random.default_rng(0).standard_normal((800, 16)).astype(np.float32)
    ProductCodec.train(vectors, num_subspaces=4, codebook_size=16).save(tmp_path / "narrow")

    done = encode(corpus, "--codec", tmp_path / "narrow")

    assert done.code == 2
    assert "16" in done.err
    assert "32" in done.err


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
    assert _documents(store) & {"doc-1", "doc-2", "doc-10", "doc-11"} == set()
    assert cli("fetch", "doc-0#0", "--store", store, "--version", 1).code == 0
    old = cli("query", "cold sea", "--store", store, "--version", 1, "--output", "json").json()
    assert old["version"] == 1
    assert _documents(store, 1) == {f"doc-{number}" for number in range(12)}


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
    with _nothing_written(store):
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


def test_the_same_folder_with_other_weights_is_another_job(
    encode: Encode, corpus: Path, tmp_path: Path
) -> None:
    """Shards of an encoder that is gone are never published as those of the one in its place."""
    folder = save_encoder(tmp_path / "encoder")
    first = encode(corpus, "--encoder", folder, store=tmp_path / "first").json()
    save_encoder(folder, seed=1)
    second = encode(corpus, "--encoder", folder, store=tmp_path / "second").json()

    assert first["job_id"] != second["job_id"]


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


def test_whole_numbers_join_a_column_of_fractions(
    encode: Encode, cli: Cli, corpus: Path, store: Path, tmp_path: Path
) -> None:
    """The second corpus takes the column's type; a filter sees both."""
    halves = [{**record, "year": record["year"] + 0.5} for record in make_records(3, prefix="half")]
    encode(write_jsonl(tmp_path / "halves.jsonl", halves))
    done = encode(corpus)

    assert done.code == 0
    assert open_store(store).collection_info().metadata_columns["year"] == "double"
    where = ("--where", "year > 2001.5 and year < 2003", "--output", "json")
    found = cli("query", "sea", "--store", store, *where).json()
    assert {hit["document_id"] for hit in found["hits"]} == {"doc-2", "half-2"}
    assert encode(corpus).json()["already_done"]


def test_a_column_of_another_type_is_refused_before_any_encoding(
    encode: Encode, corpus: Path, store: Path, tmp_path: Path
) -> None:
    """Exit code 2 with both types, and no shard of the refused job."""
    encode(corpus)
    shards = set(store.glob("default/shards/*"))
    words = [{**record, "year": "MM"} for record in make_records(3, prefix="other")]

    done = encode(write_jsonl(tmp_path / "words.jsonl", words))

    assert done.code == 2
    assert "'year' is int64 in the collection and string" in done.err
    assert set(store.glob("default/shards/*")) == shards
