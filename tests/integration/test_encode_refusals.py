"""What an encoding job refuses, and that it does so before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memstore import ProductCodec, open_store
from tests.integration.conftest import Done
from tests.integration.stores import documents_of, nothing_written
from tests.tiny import make_records, save_encoder, write_jsonl

Encode = Callable[..., Done]
Cli = Callable[..., Done]


def test_appending_known_documents_is_refused_before_any_encoding(
    encode: Encode, corpus: Path, changed: Path, store: Path
) -> None:
    """Exit code 4, known ids in the message, and nothing written."""
    encode(corpus)
    with nothing_written(store):
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


def test_bad_records_go_to_a_file_with_their_reasons(
    encode: Encode, corpus: Path, store: Path, tmp_path: Path
) -> None:
    """Exit code 5 and a file that names each record and why; the rest is there. The second run
    exits with 0 and says so again.
    """
    lines = corpus.read_bytes().splitlines(keepends=True)
    lines[2:2] = [b'{"id": "broken", \n', b'{"id": "x", "text": "secret \xff"}\n']
    lines += [b'{"text": "no id"}\n', b'{"id": "y", "text": 3}\n']
    corpus.write_bytes(b"".join(lines))

    first, second = encode(corpus), encode(corpus)

    letters = Path(first.json()["dead_letters"])
    found = [json.loads(line) for line in letters.read_text(encoding="utf-8").splitlines()]
    assert (first.code, second.code) == (5, 0)
    for done in (first, second):
        assert "4 records" in done.err
        assert str(letters) in done.err
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
    assert documents_of(store) == {f"doc-{number}" for number in range(12)}


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
    with nothing_written(store):
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
    assert f"64 → {2 * codec.record_words} bytes a token" in first.err
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


def test_the_same_folder_with_other_weights_is_another_job(
    encode: Encode, corpus: Path, tmp_path: Path
) -> None:
    """Shards of an encoder that is gone are never published as those of the one in its place."""
    folder = save_encoder(tmp_path / "encoder")
    first = encode(corpus, "--encoder", folder, store=tmp_path / "first").json()
    save_encoder(folder, seed=1)
    second = encode(corpus, "--encoder", folder, store=tmp_path / "second").json()

    assert first["job_id"] != second["job_id"]


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
