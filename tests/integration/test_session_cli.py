"""`memstore session …` on a folder, and the same commands on a server."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memstore.cli.main import run
from memstore.codec import ProductCodec
from memstore.codec.sample import read_sample
from memstore.sessions import SessionModel, open_sessions, sample_queue
from tests.tiny_sessions import make_text, save_model


class Done:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """What it printed, as a value."""
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model."""
    return save_model(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture
def session(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `memstore session …` on a folder of this test."""

    def call(command: str, *arguments: object, where: tuple[object, ...] | None = None) -> Done:
        options = ("--sessions", tmp_path / "sessions", "--model", model)
        code = run(["session", command, *map(str, arguments), *map(str, where or options)])
        return Done(code, *capsys.readouterr())

    return call


def test_a_session_lives_by_commands(session: Callable[..., Done], tmp_path: Path) -> None:
    """Begun, fed from an option and a file, continued, shown, asked, copied and ended."""
    json_out = ("--output", "json")
    assert session("new", "s", "--ttl", "3600", *json_out).json["version"] == 1
    assert session("append", "s", "--text", "sea ship", *json_out).json["num_tokens"] == 2
    (tmp_path / "text").write_text(make_text(30))
    info = session("append", "s", "--file", tmp_path / "text", *json_out).json
    assert (info["num_tokens"], info["num_windows"]) == (32, 3)
    made = session("generate", "s", "--max-new-tokens", "4", *json_out).json
    shown = session("show", "s", *json_out).json
    assert shown["num_tokens"] == 36
    assert "".join(window["text"] for window in shown["windows"]).endswith(made["text"])
    hits = session("search", "s", shown["windows"][1]["text"], "--top-k", "2", *json_out).json
    assert hits[0]["number"] == 1
    assert session("fork", "s", "t", *json_out).json["forked_from"] == "s@4"
    assert [each["session_id"] for each in session("ls", *json_out).json] == ["s", "t"]
    assert session("rm", "s", "t").out == "removed s\nremoved t\n"
    assert session("ls", *json_out).json == []


def test_tables_are_for_people(session: Callable[..., Done]) -> None:
    """The same, a field a line or a row a session."""
    assert "session_id   s" in session("new", "s").out.splitlines()
    session("append", "s", "--text", make_text(20))
    generated = session("generate", "s", "--max-new-tokens", "3").out
    shown = session("show", "s").out
    assert generated.split()[-1] in shown
    assert "num_tokens   23" in shown
    assert session("search", "s", "sea").out.splitlines()[0].split() == ["score", "number", "text"]
    assert session("ls").out.splitlines()[1].split()[0] == "s"


def test_text_comes_from_stdin(
    session: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --text and --file."""
    session("new", "s")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("sea naïve".encode())))
    assert session("append", "s", "--output", "json").json["num_tokens"] == 2


def test_bytes_that_are_not_utf8_are_refused(
    session: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From stdin and from a file; the message says which byte, and nothing is appended."""
    session("new", "s")
    (tmp_path / "text").write_bytes(b"sea \xff ship")
    done = session("append", "s", "--file", tmp_path / "text")
    assert (done.code, done.out) == (2, "")
    assert "text: byte 4 is not UTF-8" in done.err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xc3")))
    assert "stdin: byte 0 is not UTF-8" in session("append", "s").err
    assert session("show", "s", "--output", "json").json["version"] == 1


def test_errors_have_their_exit_codes(session: Callable[..., Done], tmp_path: Path) -> None:
    """2 usage, 3 not found, 4 conflict."""
    session("new", "s")
    assert session("append", "s", "--text", " ").code == 2
    assert session("append", "s", "--text", "a", "--file", "b").code == 2
    assert session("append", "t", "--text", "sea").code == 3
    assert session("new", "s").code == 4
    assert session("append", "s", "--text", "sea", "--expected-version", "9").code == 4
    assert session("append", "s", "--file", tmp_path / "none").code == 2


def test_sessions_whose_time_has_run_out_are_removed(session: Callable[..., Done]) -> None:
    """By a command of their own: a folder without a server has nobody else to do it."""
    session("new", "stays")
    session("new", "goes", "--ttl", "0.000001")
    assert session("expire").out == "removed goes\n"
    assert session("expire").out == ""
    assert [each["session_id"] for each in session("ls", "--output", "json").json] == ["stays"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (("--sessions", "x"), "name their model too"),
        (("--server", "x:1", "--model", "m"), "a server has its own"),
        (("--sessions", "x", "--server", "y:1"), "give one of"),
        (("--codec", "c"), "give one of"),
    ],
)
def test_what_is_meant_must_be_clear(
    session: Callable[..., Done], where: tuple[str, ...], message: str
) -> None:
    """A folder with a model, or a server."""
    done = session("ls", where=where)
    assert done.code == 2
    assert message in done.err


def test_a_folder_can_keep_queues_in_a_codec(
    session: Callable[..., Done], model: Path, tmp_path: Path
) -> None:
    """Trained on a sample of a corpus, named each time; without it, the memory is refused."""
    entries, folder = tmp_path / "entries.safetensors", tmp_path / "codec"
    _write_corpus(tmp_path / "corpus.jsonl", [1000, 400])
    taken = session("sample", tmp_path / "corpus.jsonl", where=_sampling(model, entries, 100))
    assert taken.code == 0, taken.err
    shape = ("--subspaces", "4", "--codebook-size", "16", "--rotation", "pca", "--quiet")
    assert run(["codec", "train", str(entries), "--output", str(folder), *shape]) == 0
    codec = ProductCodec.load(folder)
    created = session("new", "s", "--codec", folder, "--output", "json")
    assert json.loads(created.out[created.out.index("{") :])["codec_id"] == codec.id
    assert session("append", "s", "--text", "sea", "--codec", folder).code == 0
    assert session("append", "s", "--text", "sea").code == 4
    assert open_sessions(tmp_path / "sessions", model).info("s").num_tokens == 1


@pytest.mark.parametrize(("wanted", "num_windows"), [(40, 4), (99, 9)])
def test_a_sample_is_of_documents_as_far_as_a_queue_reaches(
    session: Callable[..., Done], model: Path, tmp_path: Path, wanted: int, num_windows: int
) -> None:
    """Or further, to have enough; a short one gives what it has, one without a window nothing."""
    corpus, output = tmp_path / "corpus.jsonl", tmp_path / "s"
    _write_corpus(corpus, [200, 12, 3, 200])
    done = session("sample", corpus, where=_sampling(model, output, wanted))
    assert done.code == 0, done.err
    sample = read_sample(output)
    opened = SessionModel.from_pretrained(model)
    per_window = opened.config.num_long_tokens
    most = num_windows * per_window
    assert sample.offsets is not None
    assert sample.offsets.tolist() == [0, most, most + per_window, 2 * most + per_window]
    whole = sample_queue(opened, [make_text(200, seed=0)])
    np.testing.assert_array_equal(sample.vectors[:most], whole[:most])


def test_sampling_refuses_what_leaves_nothing(
    session: Callable[..., Done], model: Path, tmp_path: Path
) -> None:
    """Documents shorter than a window, none wanted, or a file that is there."""
    corpus, output = tmp_path / "corpus.jsonl", tmp_path / "s"
    _write_corpus(corpus, [3])
    short = session("sample", corpus, where=_sampling(model, output, 40))
    assert short.code == 2
    assert "1 of 1 documents were read, and none has a window of 8 tokens" in short.err
    none = session("sample", corpus, where=_sampling(model, output, 0))
    assert none.code == 2
    assert "entries: got 0, wanted 1 or more" in none.err
    output.touch()
    assert session("sample", corpus, where=_sampling(model, output, 40)).code == 4


def _write_corpus(path: Path, num_words: list[int]) -> None:
    texts = [make_text(count, seed=seed) for seed, count in enumerate(num_words)]
    lines = [json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts)]
    path.write_text("\n".join(lines))


def _sampling(model: Path, output: Path, entries: int) -> tuple[object, ...]:
    return ("--model", model, "--output", output, "--entries", entries, "--quiet")
