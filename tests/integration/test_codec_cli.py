"""From a corpus to a codec by the command line: sample, train, show, compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memstore import ProductCodec
from memstore.codec.sample import read_sample
from memstore.encoders import EncoderOptions, load_encoder, load_splitter
from memstore.text import open_corpus, read_partition, scan
from memstore.types import Document
from tests.integration.conftest import Done
from tests.tiny import make_records, write_jsonl

WIDTH = 32


@pytest.fixture
def sample(cli: Callable[..., Done], tiny_encoder: Path, tmp_path: Path) -> Path:
    """A sample of twelve documents' memories."""
    corpus = write_jsonl(tmp_path / "corpus.jsonl", make_records(12))
    path = tmp_path / "sample.safetensors"
    done = cli(
        *("codec", "sample", corpus, "--output", path, "--encoder", tiny_encoder),
        *("--window-tokens", 32, "--tokens", 100_000),
    )
    assert (done.code, done.out) == (0, "")
    assert "memories of 32 dimensions" in done.err.replace("\n", " ")
    return path


def test_a_sample_is_what_the_encoder_makes_of_the_corpus(
    sample: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Every passage, here where more tokens are wanted than there are, in float16; and the
    vocabulary, token by token between the special tokens.
    """
    options = EncoderOptions(source=str(tiny_encoder), window_tokens=32)
    splitter, encoder = load_splitter(options), load_encoder(options)
    documents = [
        item
        for partition in scan(open_corpus(tmp_path / "corpus.jsonl")).partitions
        for item in read_partition(partition)
        if isinstance(item, Document)
    ]
    passages = [passage for document in documents for passage in splitter.split(document)]

    found = read_sample(sample)

    assert found.offsets is not None
    assert found.token_ids is not None
    assert found.documents is not None
    assert isinstance(found.vocabulary, np.ndarray)
    assert np.diff(found.offsets).tolist() == [len(passage.token_ids) for passage in passages]
    assert found.token_ids.tolist() == np.concatenate([p.token_ids for p in passages]).tolist()
    ids = [passage.passage.document_id for passage in passages]
    assert [ids.index(each) for each in ids] == [
        found.documents.tolist().index(each) for each in found.documents
    ]
    for batch in encoder.encode(passages):
        rows = np.concatenate([np.arange(*found.offsets[i : i + 2]) for i in batch.rows])
        np.testing.assert_allclose(found.vectors[rows], batch.memories, atol=1e-2)
    alone = splitter.vocabulary()[7]
    (batch,) = encoder.encode([alone])
    np.testing.assert_allclose(found.vocabulary[7], batch.memories[1], atol=1e-5)


def test_a_sample_is_cut_to_the_tokens_that_are_wanted(
    cli: Callable[..., Done], tiny_encoder: Path, tmp_path: Path
) -> None:
    """About so many, from all over the corpus."""
    corpus = write_jsonl(tmp_path / "corpus.jsonl", make_records(60))
    path = tmp_path / "few"

    done = cli(
        *("codec", "sample", corpus, "--output", path, "--encoder", tiny_encoder, "--quiet"),
        *("--window-tokens", 32, "--tokens", 300),
    )

    found = read_sample(path)
    assert (done.code, done.err) == (0, "")
    assert 300 <= len(found.vectors) < 340
    assert found.documents is not None
    assert len(set(found.documents.tolist())) >= 8


def test_a_sample_is_not_written_over_another(
    cli: Callable[..., Done], sample: Path, tmp_path: Path
) -> None:
    """Refused before the encoder is loaded: there is no such encoder here."""
    done = cli("codec", "sample", tmp_path, "--output", sample, "--encoder", tmp_path / "none")

    assert done.code == 4
    assert "write the sample to another file" in done.err


def test_a_codec_is_trained_shown_and_refused_a_second_time(
    cli: Callable[..., Done], sample: Path, tmp_path: Path
) -> None:
    """The command makes the codec that the library makes."""
    folder = tmp_path / "codec"
    options = ("--subspaces", 4, "--codebook-size", 16, "--rotation", "pca", "--seed", 3)
    command = ("codec", "train", sample, "--output", folder, *options, "--predictor", "token")

    done, again = cli(*command), cli(*command)
    shown = cli("codec", "show", folder, "--output", "json").json()

    memories = read_sample(sample)
    codec = ProductCodec.train(
        memories.vectors,
        num_subspaces=4,
        codebook_size=16,
        token_ids=memories.token_ids,
        offsets=memories.offsets,
        vocabulary=memories.vocabulary,
        rotation="pca",
        predictor="token",
        seed=3,
    )
    assert done.code == 0
    assert codec.id in done.out
    assert "training the codec, subspaces: 4 of 4" in done.err
    assert ProductCodec.load(folder) == codec
    assert (again.code, again.out) == (4, "")
    assert "train to another folder" in again.err
    assert shown["codec_id"] == codec.id
    assert shown["bytes_per_token"] == 4 + 2
    assert [stage["kind"] for stage in shown["stages"]] == ["token_predictor", "rotation"]
    assert sum(shown["parts"].values()) == shown["codec_bytes"]


def test_without_options_the_layout_is_chosen_by_the_sample(
    cli: Callable[..., Done], sample: Path, tmp_path: Path
) -> None:
    """One bit a dimension; fewer centroids for a small sample."""
    assert cli("codec", "train", sample, "--output", tmp_path / "codec", "--quiet").code == 0

    codec = ProductCodec.load(tmp_path / "codec")
    assert codec.num_subspaces == WIDTH // 8
    assert codec.codebook_size < 256
    assert codec.rotation is None
    assert codec.predictor is None


def test_a_predictor_needs_the_vocabulary(cli: Callable[..., Done], tmp_path: Path) -> None:
    """A bare array has none."""
    np.save(tmp_path / "sample.npy", np.ones((300, 8), np.float32))

    done = cli(
        *("codec", "train", tmp_path / "sample.npy", "--output", tmp_path / "codec"),
        *("--predictor", "token"),
    )

    assert done.code == 2
    assert "has no tensor 'vocabulary'" in done.err
    assert not (tmp_path / "codec").exists()
