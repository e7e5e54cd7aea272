"""`memstore train longvq`: from a folder of texts to a model, killed runs, Ray, bad input."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from encoder_jobs import longvq_cli
from encoder_jobs.longvq_learner import Learner
from encoder_jobs.longvq_options import LongVQOptions
from encoder_jobs.ragged import Ragged
from encoder_jobs.runners import RayRunner
from encoder_jobs.training_folder import Metrics
from memstore.models.longvq import LongVQ
from memstore.models.longvq_config import StateSpace
from tests.integration.conftest import Done

TINY = [
    *("--dim", 16, "--layers", 2, "--heads", 2, "--key-dim", 6, "--codes", 7, "--window", 5),
    *("--max-tokens", 40, "--batch-size", 4, "--report", "json"),
]
TEXT = "the ship of storm "

Train = Callable[..., Done]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Eight texts of different lengths, two of them of three bytes."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(8):
        text = "fog" if number < 2 else f"{TEXT}{number} " * number
        (folder / f"{number}.txt").write_text(text)
    return folder


@pytest.fixture
def train(cli: Callable[..., Done]) -> Train:
    """Return `train(corpus, output, *options)`: a tiny model, four steps if none are given."""

    def call(corpus: Path, output: Path, *options: object) -> Done:
        steps = [] if "--steps" in options else ["--steps", 4]
        return cli("train", "longvq", corpus, "--output", output, *TINY, *steps, *options)

    return call


def test_texts_become_an_encoder(train: Train, texts: Path, tmp_path: Path) -> None:
    """The folder has the model with its tokenizer, and tells of held-out text and codebooks."""
    done = train(texts, tmp_path / "run", "--validate-every", 2, "--held-out", 0.25)

    assert done.code == 0, done.err
    report = done.json()
    model = LongVQ.from_pretrained(Path(report["model"]))
    tokenizer = Tokenizer.from_file(f"{report['model']}/tokenizer.json")
    ids = torch.tensor([tokenizer.encode(TEXT).ids])
    assert model(ids).hidden.shape == (1, len(TEXT), 16)
    assert model.config.vocab_size == 257 == tokenizer.get_vocab_size() + 1
    assert not model.config.is_causal
    assert "training on 6 documents, validating on 2" in done.err
    assert "step 2: validation perplexity" in done.err
    assert "codes in use" in done.err
    rows = Metrics(tmp_path / "run/metrics.jsonl").rows()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] == report["loss"]
    assert rows[-1]["code_perplexity"] == report["code_perplexity"]
    assert rows[-1]["collapsed_codebooks"] == report["collapsed_codebooks"]
    kept = json.loads((tmp_path / "run/validation.json").read_text())
    assert kept["step"] == 4
    assert kept["perplexity"] == report["validation_perplexity"]
    assert report["validation_bits_per_byte"] is None


def test_the_model_is_that_of_the_last_step(train: Train, tmp_path: Path) -> None:
    """It gives what a learner in memory gives after the same steps."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(f'{{"id": {n}, "text": "{TEXT * (n + 1)}"}}\n' for n in range(4)))
    options = "--held-out", 0, "--objective", "causal", "--state-space", "s4d", "--steps", 3

    report = train(path, tmp_path / "run", *options, "--moment-width", 8).json()

    model = LongVQ.from_pretrained(Path(report["model"]))
    assert model.config.is_causal
    assert model.config.vocab_size == 256
    assert model.config.state_space is StateSpace.S4D
    assert model.config.moment_width == 8
    documents = Ragged.of([list((TEXT * (n + 1)).encode()) for n in range(4)])
    learning = LongVQOptions(steps=3, batch_size=4, max_tokens=40, learning_rate=0.001)
    learner = Learner(model.config, learning, documents)
    for step in (1, 2, 3):
        loss = learner.learn(step).loss
    ids = torch.tensor([list(TEXT.encode())])
    assert report["loss"] == loss
    assert torch.equal(model(ids).hidden, learner.model.eval()(ids).hidden)


def test_a_causal_model_of_bytes_is_scored_in_bits(
    train: Train, texts: Path, tmp_path: Path
) -> None:
    """A byte, of held-out text."""
    done = train(texts, tmp_path / "run", "--objective", "causal", "--validation", texts).json()

    assert done["validation_bits_per_byte"] == pytest.approx(done["validation_loss"] / math.log(2))
    assert 0 < done["validation_bits_per_byte"] < 12


def test_the_same_command_does_nothing_more(train: Train, texts: Path, tmp_path: Path) -> None:
    """A finished run is reported again; another one in its folder is a conflict."""
    command = texts, tmp_path / "run", "--held-out", 0, "--steps", 1
    first = train(*command).json()

    again = train(*command).json()
    other = train(*command, "--window", 4)
    causal = train(*command, "--objective", "causal")

    assert not first["already_done"]
    assert {**again, "already_done": False, "seconds": first["seconds"]} == first
    assert other.code == causal.code == 4
    assert "window 5 there, 4 asked" in other.err
    assert "is_causal False there, True asked" in causal.err


def test_words_may_be_tokens(cli: Callable[..., Done], tmp_path: Path) -> None:
    """With any tokenizer; the report can be read by people."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(f'{{"id": {n}, "text": "{TEXT * 20}"}}\n' for n in range(4)))

    done = cli(
        *("train", "longvq", path, "--output", tmp_path / "run", "--tokenizer", "all-MiniLM-L6-v2"),
        *(*TINY[:-2], "--steps", 2, "--checkpointing"),
    )

    assert done.code == 0, done.err
    tokenizer = Tokenizer.from_file(str(tmp_path / "run/model/tokenizer.json"))
    model = LongVQ.from_pretrained(tmp_path / "run/model")
    assert model.config.vocab_size == tokenizer.get_vocab_size() + 1
    assert "collapsed_codebooks" in done.out
    assert "num_documents             3" in done.out


def test_a_killed_run_ends_with_the_same_weights(train: Train, texts: Path, tmp_path: Path) -> None:
    """Killed outright once it has begun, then run again."""
    options = ["--steps", 8, "--checkpoint-every", 2, "--validate-every", 3]
    wanted = train(texts, tmp_path / "whole", *options).json()
    cut = tmp_path / "cut"
    command = [sys.executable, "-m", "memstore", "train", "longvq"]
    command += map(str, (texts, "--output", cut, *TINY, *options))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("step 3: validation" in line for line in process.stderr)
        process.send_signal(signal.SIGKILL)

    got = train(texts, cut, *options).json()

    assert process.returncode == -signal.SIGKILL
    assert got["loss"] == wanted["loss"]
    whole, again = (Path(each["model"], "model.safetensors") for each in (wanted, got))
    assert again.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--tokenizer", "./nowhere"], 3, "tokenizer: got './nowhere', which is not there"),
        (["--validation", "nowhere.jsonl"], 3, "nowhere.jsonl: no such file"),
        (["--workers", 2], 2, "2 workers want Ray"),
        (["--heads", 3], 2, "num_heads: got 3, wanted a divisor of value_dim = 16"),
        (["--codes", 1], 2, "num_codes: got 1, wanted at least 2"),
        (["--max-tokens", 1], 2, "max_tokens: got 1, wanted 2 or more"),
        (["--objective", "both"], 2, "--objective"),
        (["--learning-rate", 0], 2, "learning_rate: got 0.0, wanted more than 0"),
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
    (tmp_path / "short/b.txt").write_text("")

    assert train(tmp_path / "none", tmp_path / "run").code == 2
    assert train(tmp_path / "nowhere", tmp_path / "run").code == 3
    short = train(tmp_path / "short", tmp_path / "run")
    assert short.code == 2
    assert "0 documents" in short.err
    assert not (tmp_path / "run").exists()


def test_texts_longer_than_memory_are_refused_with_the_bytes(train: Train, tmp_path: Path) -> None:
    """Before the folder is made."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "long.txt").write_text("fog " * 500_000)

    done = train(
        *(folder, tmp_path / "run", "--max-tokens", 2_000_000, "--layers", 1000),
        *("--batch-size", 64, "--micro-batch", 64),
    )

    assert done.code == 2
    assert "64 x 2000000 would take about" in done.err
    assert "GiB" in done.err
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_is_said(train: Train, texts: Path, tmp_path: Path) -> None:
    """With its step, and what is kept."""
    done = train(texts, tmp_path / "run", "--learning-rate", 1e30, "--checkpoint-every", 1)

    assert done.code == 1
    assert "step 2 has a loss of" in done.err
    assert "the checkpoint of step 1 is kept" in done.err
    assert not (tmp_path / "run/model").exists()


def test_the_help_says_what_each_option_is(cli: Callable[..., Done]) -> None:
    """Its state spaces are those of the model, but for none."""
    done = cli("train", "longvq", "--help")

    assert done.code == 0
    for option in ("--objective", "--tokenizer", "--codes", "--max-tokens", "--held-out", "--ray"):
        assert option in done.out
    offered = [each.value for each in longvq_cli.StateSpace]
    assert offered == [each.value for each in StateSpace if each is not StateSpace.NONE]


@pytest.fixture(scope="module")
def ray_runner() -> Iterator[RayRunner]:
    """One Ray for the module; what asks for `--ray local` finds it running and leaves it so."""
    runner = RayRunner("local")
    yield runner
    runner.close()


@pytest.mark.ray
def test_two_workers_share_the_batch(
    ray_runner: RayRunner, train: Train, texts: Path, tmp_path: Path
) -> None:
    """Steps and scores are those of one process."""
    options = "--dropout", 0, "--micro-batch", 2, "--validate-every", 2, "--held-out", 0.3
    alone = train(texts, tmp_path / "alone", *options, "--micro-batch", 4)
    spread = train(texts, tmp_path / "ray", *options, "--ray", "local", "--workers", 2)

    assert spread.code == 0, spread.err
    rows = [Metrics(tmp_path / run / "metrics.jsonl").rows() for run in ("alone", "ray")]
    for one, two in zip(*rows, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=0.05)
        assert two["num_tokens"] == one["num_tokens"]
    assert rows[0][0]["loss"] == pytest.approx(rows[1][0]["loss"], rel=1e-5)
    assert alone.json()["validation_loss"] == pytest.approx(
        spread.json()["validation_loss"], rel=0.05
    )
