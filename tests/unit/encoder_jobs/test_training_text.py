"""Documents of a corpus as token ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from encoder_jobs.progress import ProgressDisplay
from encoder_jobs.ragged import Ragged
from encoder_jobs.training_text import TextInputs, hold_out, open_tokenizer, read_documents
from memstore.encoders.tokens import special_ids
from memstore.errors import ConfigError, InvalidInputError, NotFoundError
from memstore.text import load_tokenizer
from tests.tiny import save_encoder

QUIET = ProgressDisplay(quiet=True)
TEXT = "Naïve café:  a\ttab,\n\nthe '\u2028' and 船 🐋 [UNK]\r\n"


def test_bytes_are_the_ids_and_give_the_text_back() -> None:
    """To the last space, by the tokenizer.json that is kept too."""
    tokenizer = open_tokenizer("bytes")
    kept = Tokenizer.from_str(tokenizer.content.decode())

    ids = tokenizer.encode(TEXT).tolist()

    assert ids == kept.encode(TEXT).ids == list(TEXT.encode())
    assert kept.decode(ids) == TEXT
    assert kept.get_vocab_size() == tokenizer.vocab_size == 256
    assert kept.encode("".join(map(chr, range(256)))).ids == list(
        "".join(map(chr, range(256))).encode()
    )


def test_a_long_text_has_the_ids_of_its_words(tmp_path: Path) -> None:
    """Though it is not tokenized in one piece."""
    tokenizer = open_tokenizer(str(save_encoder(tmp_path / "model")))
    words = tokenizer.encode("ship and whale").tolist()

    assert tokenizer.encode("ship and whale \n" * 30_000).tolist() == words * 30_000
    assert len(tokenizer.encode("")) == 0


def test_a_tokenizer_is_a_file_or_in_a_folder(tmp_path: Path) -> None:
    """The same either way; special tokens are not added, by what is kept of it neither."""
    folder = save_encoder(tmp_path / "model")

    by_folder, by_file = open_tokenizer(str(folder)), open_tokenizer(f"{folder}/tokenizer.json")

    assert by_folder.content == by_file.content
    assert by_folder.sha256 == by_file.sha256
    whole, kept = load_tokenizer(folder / "tokenizer.json"), Tokenizer.from_buffer(by_file.content)
    assert special_ids(whole) != ((), ()) == special_ids(kept)
    assert kept.encode("sea ship").ids == by_file.encode("sea ship").tolist()
    known = json.loads(by_file.content)["model"]["vocab"]
    assert by_file.encode("sea ship [SEP]").tolist()[:2] == [known["sea"], known["ship"]]
    assert known["[SEP]"] not in by_file.encode("sea ship [SEP]")


@pytest.mark.parametrize("name", ["none/tokenizer.json", "./none", "empty"])
def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    """With what would do."""
    (tmp_path / "empty").mkdir()

    with pytest.raises(NotFoundError, match=r"tokenizer: got .*wanted 'bytes', a tokenizer\.json"):
        open_tokenizer(str(tmp_path / name))


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    """It is JSON, but not of one."""
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(ConfigError, match="not a tokenizer"):
        open_tokenizer(str(tmp_path / "config.json"))


def test_a_folder_of_texts_is_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file each; what is too short or cannot be read is left out and said."""
    texts = {"b.txt": b"cold sea", "a.txt": b"ship", "c.txt": b"x", "d.txt": b"", "e.txt": b"\xff"}
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
    inputs = TextInputs(str(tmp_path))
    display = ProgressDisplay(terminal=False)

    documents = read_documents(
        inputs.scan(inputs.corpus, display), open_tokenizer("bytes"), display
    )

    assert [bytes(documents[row].tolist()) for row in range(2)] == [b"ship", b"cold sea"]
    assert len(documents) == 2
    said = capsys.readouterr().err
    assert "2 documents of 12 tokens" in said
    assert "2 documents of fewer than two tokens are left out" in said
    assert "1 records could not be read and are left out; the first: e.txt:1 invalid UTF-8" in said


def test_json_lines_are_documents_by_a_field_of_any_name(tmp_path: Path) -> None:
    """Titles and metadata are left out."""
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": 1, "title": "no", "body": "sea"}\n{"id": 2, "body": "ice"}\n')
    inputs = TextInputs(str(path), text_field="body")

    documents = read_documents(inputs.scan(str(path), QUIET), open_tokenizer("bytes"), QUIET)

    assert [bytes(documents[row].tolist()) for row in range(2)] == [b"sea", b"ice"]


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    """Before anything is tokenized."""
    (tmp_path / "empty.txt").write_text("")

    with pytest.raises(InvalidInputError, match="the corpus is empty: 1 documents"):
        TextInputs("").scan(str(tmp_path), QUIET)


def test_whole_documents_are_held_out() -> None:
    """As large a share as asked for; the same seed holds out the same."""
    documents = Ragged.of([[number] * (number + 2) for number in range(40)])

    train, held_out = hold_out(documents, 0.1, seed=3)

    assert held_out is not None
    rows = [part[row].tolist() for part in (train, held_out) for row in range(len(part))]
    assert sorted(rows) == [[number] * (number + 2) for number in range(40)]
    assert len(held_out) == 4
    same, other = (hold_out(documents, 0.1, seed=seed)[1] for seed in (3, 4))
    assert same is not None
    assert other is not None
    np.testing.assert_array_equal(same.values, held_out.values)
    assert same.values.tolist() != other.values.tolist()


@pytest.mark.parametrize(
    ("count", "share", "wanted"), [(1, 0.5, 0), (2, 0.01, 1), (3, 0.99, 2), (9, 0.0, 0)]
)
def test_one_document_is_always_left_to_train_on(count: int, share: float, wanted: int) -> None:
    """And one is held out where there are two, if any share is asked for."""
    train, held_out = hold_out(Ragged.of([[1, 2]] * count), share, seed=0)

    assert (len(train), len(held_out or [])) == (count - wanted, wanted)


def test_a_share_of_all_or_less_than_none_is_refused() -> None:
    """There would be nothing to train on."""
    for share in (1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="held_out: got"):
            TextInputs("corpus", held_out=share)
