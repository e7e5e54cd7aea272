"""`memstore train melodi`: from a folder of texts to a model, killed runs, Ray, bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from encoder_jobs import melodi_cli
from encoder_jobs.runners import RayRunner
from encoder_jobs.training_folder import Metrics
from memstore.codec import ProductCodec
from memstore.models.checkpoints import read_checkpoint
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import Architecture
from memstore.sessions import open_sessions
from tests.integration.conftest import Done

TINY = [
    *("--dim", 16, "--layers", 2, "--heads", 2, "--window", 8, "--short-tokens", 2),
    *("--long-tokens", 2, "--queue-windows", 4, "--segment-windows", 2, "--batch-size", 4),
    *("--report", "json"),
]

Train = Callable[..., Done]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Eight texts of different lengths, two of which are shorter than a window."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(8):
        text = "fog" if number < 2 else f"the ship of storm {number} " * number
        (folder / f"{number}.txt").write_text(text)
    return folder


@pytest.fixture
def train(cli: Callable[..., Done]) -> Train:
    """Return `train(corpus, output, *options)`: a tiny model, four steps if none are given."""

    def call(corpus: Path, output: Path, *options: object) -> Done:
        steps = [] if "--steps" in options else ["--steps", 4]
        return cli("train", "melodi", corpus, "--output", output, *TINY, *steps, *options)

    return call


def test_texts_become_a_model_that_goes_on_writing(
    train: Train, texts: Path, tmp_path: Path
) -> None:
    """The folder has the model with its tokenizer, and perplexity by position."""
    done = train(texts, tmp_path / "run", "--validate-every", 2, "--held-out", 0.25)

    assert done.code == 0, done.err
    report = done.json()
    model = Melodi.from_pretrained(Path(report["model"]))
    tokenizer = Tokenizer.from_file(f"{report['model']}/tokenizer.json")
    ids = torch.tensor([tokenizer.encode("the ship").ids])
    assert len(tokenizer.decode(model.generate(ids, max_new_tokens=12).ids[0].tolist())) > 0
    assert "training on 6 documents, validating on 2" in done.err
    assert "step 2: validation perplexity" in done.err
    rows = Metrics(tmp_path / "run/metrics.jsonl").rows()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] == report["loss"]
    kept = json.loads((tmp_path / "run/validation.json").read_text())
    assert kept["step"] == 4
    assert kept["perplexity"] == report["validation_perplexity"]
    assert kept["by_position"] == report["validation_by_position"]
    windows = [(each["first_window"], each["last_window"]) for each in kept["by_position"]]
    assert windows == [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15)][: len(windows)]


def test_the_same_command_does_nothing_more(train: Train, texts: Path, tmp_path: Path) -> None:
    """A finished run is reported again; another one in its folder is a conflict."""
    command = texts, tmp_path / "run", "--held-out", 0
    first = train(*command).json()
    (texts / "new.txt").write_text("a new text")

    changed = train(*command)
    (texts / "new.txt").unlink()
    again = train(*command).json()
    other = train(*command, "--window", 4)

    assert not first["already_done"]
    assert {**again, "already_done": False, "seconds": first["seconds"]} == first
    assert first["validation_by_position"] == []
    assert changed.code == other.code == 4
    assert "corpus_sha256" in changed.err
    assert "window 8 there, 4 asked" in other.err


def test_a_baseline_is_trained_by_the_same_command(train: Train, tmp_path: Path) -> None:
    """On JSON lines, with held-out ones of their own, and words for tokens."""
    path, held_out = tmp_path / "train.jsonl", tmp_path / "held-out.jsonl"
    for file in (path, held_out):
        lines = (json.dumps({"id": n, "text": "the ship of fog " * 20}) for n in range(4))
        file.write_text("\n".join(lines))

    done = train(
        *(path, tmp_path / "run", "--architecture", "memorizing", "--validation", held_out),
        *("--tokenizer", "all-MiniLM-L6-v2", "--optimizer", "adafactor", "--steps", 2),
    )

    assert done.code == 0, done.err
    report = done.json()
    assert (
        Melodi.from_pretrained(Path(report["model"])).config.architecture is Architecture.MEMORIZING
    )
    assert report["num_documents"] == 4
    assert report["num_tokens"] == 4 * 80
    assert sum(each["num_tokens"] for each in report["validation_by_position"]) == 4 * 79


def test_a_model_learns_on_with_its_queue_in_codes(
    cli: Callable[..., Done], train: Train, texts: Path, tmp_path: Path
) -> None:
    """Sampled, a codec trained, both trained on, and sessions kept with what came of it."""
    model = train(texts, tmp_path / "plain", "--dropout", 0).json()["model"]
    entries, begun, run = tmp_path / "entries", tmp_path / "codec", tmp_path / "coded"
    shape = "--subspaces", 4, "--codebook-size", 16
    assert cli("session", "sample", texts, "--model", model, "--output", entries).code == 0
    assert cli("codec", "train", entries, "--output", begun, *shape).code == 0
    options = "--output", run, "--batch-size", 4, "--segment-windows", 2, "--report", "json"
    command = "train", "melodi", texts, "--source", model, "--codec", begun, *options
    done = cli(*command, "--steps", 4)

    assert done.code == 0, done.err
    report = done.json()
    assert cli(*command, "--steps", 4).json()["already_done"]
    assert Melodi.from_pretrained(report["model"]).config == Melodi.from_pretrained(model).config
    codecs = [ProductCodec.load(Path(each)) for each in (begun, report["codec"])]
    assert codecs[0].id != codecs[1].id
    sessions = open_sessions(str(tmp_path / "sessions"), report["model"], codec=report["codec"])
    sessions.create("s")
    assert sessions.append("s", "the ship of storm " * 5).codec_id == codecs[1].id
    assert sessions.search("s", "storm", top_k=1)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--source", "MODEL", "--dim", 16], 2, "--dim: the model of --source has its own"),
        (["--source", "./nowhere"], 3, "nowhere"),
        (["--source", "MODEL", "--codec", "./nowhere"], 3, "nowhere"),
        (["--source", "MODEL", "--codec", "WIDE"], 4, "the queue's entries are of width 16"),
        (["--long-tokens", 0, "--codec", "WIDE"], 2, "keeps no queue"),
        (["--architecture", "transformer-xl", "--codec", "WIDE"], 2, "only MELODI's queue"),
    ],
)
def test_a_source_or_codec_that_does_not_fit_is_refused(
    cli: Callable[..., Done],
    train: Train,
    texts: Path,
    tmp_path: Path,
    options: list[Any],
    code: int,
    said: str,
) -> None:
    """Before any step, and without a folder."""
    model = train(texts, tmp_path / "plain", "--steps", 1).json()["model"]
    vectors = np.random.default_rng(0).standard_normal((40, 32), np.float32)
    ProductCodec.train(vectors, num_subspaces=4, codebook_size=16).save(tmp_path / "wide")
    named = {"MODEL": model, "WIDE": tmp_path / "wide"}
    given = [named.get(each, each) for each in options]
    command = "train", "melodi", texts, "--output", tmp_path / "run", "--batch-size", 4
    done = cli(*command, *given)

    assert done.code == code, done.err
    assert said in done.err
    assert not (tmp_path / "run").exists()


def test_a_killed_run_ends_with_the_same_weights(train: Train, texts: Path, tmp_path: Path) -> None:
    """Killed outright once it has begun, then run again."""
    options = ["--steps", 8, "--checkpoint-every", 2, "--validate-every", 3]
    wanted = train(texts, tmp_path / "whole", *options).json()
    cut = tmp_path / "cut"
    arguments = texts, "--output", cut, *TINY, *options
    command = [sys.executable, "-m", "memstore", "train", "melodi", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("step 3: validation" in line for line in process.stderr)
        process.send_signal(signal.SIGKILL)

    got = train(texts, cut, *options).json()

    assert process.returncode == -signal.SIGKILL
    assert got["loss"] == wanted["loss"]
    assert got["validation_by_position"] == wanted["validation_by_position"]
    whole, again = (Path(each["model"], "model.safetensors") for each in (wanted, got))
    assert again.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--tokenizer", "./nowhere"], 3, "tokenizer: got './nowhere', which is not there"),
        (["--validation", "nowhere.jsonl"], 3, "nowhere.jsonl: no such file"),
        (["--batch-size", 9], 2, "batch_size: got 9, wanted at most 7, the documents to train on"),
        (["--workers", 2], 2, "2 workers want Ray"),
        (["--heads", 3], 2, "num_heads: got 3, wanted a divisor of dim = 16"),
        (["--held-out", 1], 2, "held_out: got 1.0"),
        (["--layout", "jsonl"], 2, "no file ends in .jsonl"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_step(
    train: Train, texts: Path, tmp_path: Path, options: list[Any], code: int, said: str
) -> None:
    """With the exit code of its kind, and no folder."""
    done = train(texts, tmp_path / "run", *options)

    assert done.code == code
    assert said in done.err
    assert not (tmp_path / "run").exists()


def test_no_documents_are_named(train: Train, tmp_path: Path) -> None:
    """A folder without any, one whose texts are too short, and no folder."""
    (tmp_path / "none").mkdir()
    (tmp_path / "short").mkdir()
    (tmp_path / "short/a.txt").write_text("x")

    assert train(tmp_path / "none", tmp_path / "run").code == 2
    assert train(tmp_path / "nowhere", tmp_path / "run").code == 3
    short = train(tmp_path / "short", tmp_path / "run")
    assert short.code == 2
    assert "0 documents to train on" in short.err
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_is_said(train: Train, texts: Path, tmp_path: Path) -> None:
    """With its step, and what is kept."""
    done = train(texts, tmp_path / "run", "--learning-rate", 1e30, "--checkpoint-every", 1)

    assert done.code == 1
    assert "step 2 has a loss of" in done.err
    assert "the checkpoint of step 1 is kept" in done.err
    assert not (tmp_path / "run/model").exists()


def test_the_help_says_what_each_option_is(cli: Callable[..., Done]) -> None:
    """And has every architecture that there is."""
    done = cli("train", "melodi", "--help")

    assert done.code == 0
    for option in ("--tokenizer", "--architecture", "--segment-windows", "--held-out", "--ray"):
        assert option in done.out
    assert [each.value for each in melodi_cli.Architecture] == [each.value for each in Architecture]


@pytest.fixture(scope="module")
def ray_runner() -> Iterator[RayRunner]:
    """One Ray for the module; what asks for `--ray local` finds it running and leaves it so."""
    runner = RayRunner("local")
    yield runner
    runner.close()


@pytest.mark.ray
def test_two_workers_share_the_streams(
    ray_runner: RayRunner, train: Train, texts: Path, tmp_path: Path
) -> None:
    """Steps, scores and what is remembered are those of one process."""
    options = "--dropout", 0, "--micro-batch", 1, "--validate-every", 3, "--held-out", 0.3
    alone = train(texts, tmp_path / "alone", *options)
    spread = train(texts, tmp_path / "ray", *options, "--ray", "local", "--workers", 2)

    assert spread.code == 0, spread.err
    rows = [Metrics(tmp_path / run / "metrics.jsonl").rows() for run in ("alone", "ray")]
    for one, two in zip(*rows, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert two["num_tokens"] == one["num_tokens"]
    assert alone.json()["validation_loss"] == pytest.approx(
        spread.json()["validation_loss"], rel=1e-3
    )
    kept = [
        read_checkpoint(tmp_path / run / "checkpoints/step-000000004", kind="training")[1]
        for run in ("alone", "ray")
    ]
    carried = [
        {name: each for name, each in tensors.items() if name.startswith("carried.")}
        for tensors in kept
    ]
    torch.testing.assert_close(carried[1], carried[0], rtol=0.05, atol=0.05)
    assert len({name.split(".")[1] for name in carried[0]}) == 5
