"""Training from the command line: the loop from questions to answers out of a store, killed runs,
Ray, and what is refused.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from encoder_jobs.runners import RayRunner
from encoder_jobs.training_folder import Metrics
from memstore import open_store
from memstore.errors import CodecMismatchError, EncoderMismatchError
from memstore.readers import LumenReader
from tests.integration.conftest import Done
from tests.tiny import make_records, write_jsonl
from tests.tiny_training import save_small_t5, write_questions

CUT = ["--live-fraction", "1/2", "--window-tokens", "16"]
SMALL = ["--batch-size", "4", "--learning-rate", "0.01", "--optimizer", "adamw", "--report", "json"]
QUANTIZER = ["--subspaces", "4", "--codebook-size", "8"]

Train = Callable[..., Done]


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder, of a model with dropout."""
    return save_small_t5(tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Twelve questions with their passages."""
    return write_questions(tmp_path / "questions.jsonl", 12)


@pytest.fixture
def train(cli: Callable[..., Done]) -> Train:
    """Return `train(kind, source, questions, output, *options)`: three steps if none are given."""

    def call(kind: str, source: Path, questions: Path, output: Path, *options: object) -> Done:
        steps = [] if "--steps" in options else ["--steps", 3]
        arguments = source, questions, "--output", output, *CUT, *SMALL, *steps, *options
        return cli("train", kind, *arguments)

    return call


def encode(
    cli: Callable[..., Done], corpus: Path, store: Path, encoder: Path, *more: object
) -> Any:
    """Encode a corpus into a store and return the collection's figures."""
    done = cli("encode", corpus, "--store", store, "--encoder", encoder, *CUT, *more)
    assert done.code == 0, done.err
    return open_store(store).collection_info()


def test_the_loop_is_closed(
    cli: Callable[..., Done], train: Train, t5: Path, tmp_path: Path
) -> None:
    """Encode, train LUMEN on what the store finds, train LUMEN-VQ, encode again, and ask."""
    corpus = write_jsonl(tmp_path / "corpus.jsonl", make_records(6))
    first = encode(cli, corpus, tmp_path / "first", t5)
    asked = [{"id": n, "question": "cold sea", "answers": ["ice"]} for n in range(8)]
    questions = write_jsonl(tmp_path / "questions.jsonl", asked)
    found = "--store", tmp_path / "first", "--top-k", 2

    lumen = train("lumen", t5, questions, tmp_path / "lumen", *found).json()
    joint = train(
        "lumen-vq", tmp_path / "lumen/reader", questions, tmp_path / "vq", *QUANTIZER, *found
    ).json()
    pinned = encode(cli, corpus, tmp_path / "second", joint["encoder"], "--codec", joint["codec"])

    assert (pinned.encoder_id, pinned.codec_id) == (joint["encoder_id"], joint["codec_id"])
    assert lumen["codec_id"] == ""
    store = open_store(tmp_path / "second")
    (answer,) = LumenReader.from_pretrained(joint["reader"], store, top_k=2).answer(["cold sea"])
    assert len(answer.passages) == 2
    with pytest.raises(EncoderMismatchError, match=pinned.encoder_id[:16]):
        LumenReader.from_pretrained(lumen["reader"], store)
    with pytest.raises(EncoderMismatchError, match=first.encoder_id[:16]):
        LumenReader.from_pretrained(joint["reader"], open_store(tmp_path / "first"))
    other = encode(cli, corpus, tmp_path / "third", joint["encoder"])
    with pytest.raises(CodecMismatchError, match=other.codec_id[:16]):
        LumenReader.from_pretrained(joint["reader"], open_store(tmp_path / "third"))


def test_the_codec_alone_is_learnt_post_hoc(
    train: Train, t5: Path, questions: Path, tmp_path: Path
) -> None:
    """The memories stay those of the model that training began with."""
    lumen = train("lumen", t5, questions, tmp_path / "lumen").json()

    posthoc = train(
        "lumen-vq", lumen["reader"], questions, tmp_path / "vq", *QUANTIZER, "--freeze", "all"
    ).json()

    assert posthoc["encoder_id"] == lumen["encoder_id"]
    assert posthoc["codec_id"] != ""


def test_one_store_serves_all_readers_of_a_frozen_encoder(
    cli: Callable[..., Done], train: Train, t5: Path, questions: Path, tmp_path: Path
) -> None:
    """Encoded once by the T5 itself: it is nobody's business that readers were trained since."""
    corpus = write_jsonl(tmp_path / "corpus.jsonl", make_records(6))
    frozen = "--freeze", "memory-encoder"
    lumen = train("lumen", t5, questions, tmp_path / "lumen").json()
    vq = train("lumen-vq", lumen["reader"], questions, tmp_path / "vq", *QUANTIZER, *frozen).json()

    made = encode(cli, corpus, tmp_path / "store", t5, "--codec", vq["codec"])

    assert lumen["encoder"] == vq["encoder"] == ""
    assert lumen["encoder_id"] == vq["encoder_id"] == made.encoder_id
    store = open_store(tmp_path / "store")
    for reader in (lumen["reader"], vq["reader"]):
        (answer,) = LumenReader.from_pretrained(reader, store, top_k=2).answer(["cold sea"])
        assert len(answer.passages) == 2
    weights = [load_file(Path(each, "model.safetensors")) for each in (lumen["reader"], t5)]
    name = "memory_encoder.block.0.layer.0.SelfAttention.q.weight"
    assert torch.equal(weights[0][name], weights[1]["encoder." + name.partition(".")[2]])


def test_the_same_command_does_nothing_more(
    train: Train, t5: Path, questions: Path, tmp_path: Path
) -> None:
    """A finished run is reported again; another one in its folder is a conflict."""
    command = "lumen", t5, questions, tmp_path / "run"
    first = train(*command).json()
    written = (tmp_path / "run/reader/model.safetensors").stat().st_mtime_ns

    again = train(*command).json()
    conflict = train(*command, "--seed", 1, "--top-k", 2)

    assert not first["already_done"]
    assert again["already_done"]
    assert again["encoder_id"] == first["encoder_id"]
    assert (tmp_path / "run/reader/model.safetensors").stat().st_mtime_ns == written
    assert conflict.code == 4
    assert "top_k 8 there, 2 asked; seed 0 there, 1 asked" in conflict.err


def test_a_killed_run_ends_with_the_same_weights(
    train: Train, t5: Path, questions: Path, tmp_path: Path
) -> None:
    """Killed outright once it has begun, then run again."""
    options = ["--steps", 8, "--checkpoint-every", 2, *QUANTIZER]
    options += ["--validation", questions, "--validate-every", 3]
    wanted = train("lumen-vq", t5, questions, tmp_path / "whole", *options).json()
    cut = tmp_path / "cut"
    arguments = "lumen-vq", t5, questions, "--output", cut, *CUT, *SMALL, *options
    command = [sys.executable, "-m", "memstore", "train", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("step 3: validation" in line for line in process.stderr)
        process.send_signal(signal.SIGKILL)

    got = train("lumen-vq", t5, questions, cut, *options).json()

    assert process.returncode == -signal.SIGKILL
    for name in ("encoder_id", "codec_id", "loss"):
        assert got[name] == wanted[name]
    for name in ("reader", "encoder"):
        whole, again = (Path(each[name], "model.safetensors") for each in (wanted, got))
        assert again.read_bytes() == whole.read_bytes()


def test_what_was_cut_off_at_the_end_is_exported_again(
    train: Train, t5: Path, questions: Path, tmp_path: Path
) -> None:
    """Encoder and codec are there, the reader is not yet."""
    command = "lumen-vq", t5, questions, tmp_path / "run", *QUANTIZER
    first = train(*command).json()
    shutil.rmtree(tmp_path / "run/reader")
    (tmp_path / "run/encoder/config.json").unlink()

    again = train(*command).json()

    assert {**again, "seconds": 0} == {**first, "seconds": 0}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"id": 1, "question": "sea", "answers": [], "passages": ["ship"]}, "line 1: .*'answers'"),
        ({"id": 1, "question": "sea", "answers": ["ice"]}, "line 1: no passages and no store"),
    ],
)
def test_bad_questions_leave_nothing_behind(
    train: Train, t5: Path, tmp_path: Path, line: dict[str, Any], said: str
) -> None:
    """The folder is free for the mended file."""
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(line))

    done = train("lumen", t5, path, tmp_path / "run")

    assert done.code == 2
    assert re.search(said, done.err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"--live-fraction": "1/3"}, 2, "wanted whole layers"),
        ({"--store": "nowhere"}, 3, "no such folder"),
        ({"--workers": 2}, 2, "2 workers want Ray"),
        ({"--validation": "nowhere.jsonl"}, 3, "nowhere.jsonl: no such file"),
        ({"--codec": "nowhere"}, 3, "nowhere"),
        ({"--codebook-size": 4096}, 2, "codebook_size: got 4096, wanted at most"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_step(
    train: Train,
    t5: Path,
    questions: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    code: int,
    said: str,
) -> None:
    """With the exit code of its kind, and no folder."""
    options = [part for pair in changes.items() for part in pair]

    done = train("lumen-vq", t5, questions, tmp_path / "run", *options)

    assert done.code == code
    assert said in done.err
    assert not (tmp_path / "run").exists()


def test_no_questions_and_no_model_are_named(train: Train, t5: Path, tmp_path: Path) -> None:
    """What is missing is said."""
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")

    assert "the file is empty" in train("lumen", t5, empty, tmp_path / "run").err
    assert train("lumen", t5, tmp_path / "none.jsonl", tmp_path / "run").code == 3
    assert train("lumen", tmp_path / "none", empty, tmp_path / "run").code == 3


@pytest.fixture(scope="module")
def ray_runner() -> Iterator[RayRunner]:
    """One Ray for the module; what asks for `--ray local` finds it running and leaves it so."""
    runner = RayRunner("local")
    yield runner
    runner.close()


@pytest.mark.slow
@pytest.mark.ray
def test_one_worker_of_ray_trains_the_same_weights(
    ray_runner: RayRunner, train: Train, t5: Path, questions: Path, tmp_path: Path
) -> None:
    """As this process, to the byte; and Ray leaves nothing in the folder."""
    command = "lumen-vq", t5, questions
    alone = train(*command, tmp_path / "alone", *QUANTIZER).json()

    spread = train(*command, tmp_path / "ray", *QUANTIZER, "--ray", "local", "--workers", 1).json()

    assert spread["codec_id"] == alone["codec_id"]
    assert spread["encoder_id"] == alone["encoder_id"]
    names = [{path.name for path in (tmp_path / run).iterdir()} for run in ("alone", "ray")]
    assert names[0] == names[1]


@pytest.mark.ray
def test_two_workers_share_a_batch(
    ray_runner: RayRunner, train: Train, questions: Path, tmp_path: Path
) -> None:
    """Loss and gradient of the first step are those of one process; all held-out questions are
    scored.
    """
    t5 = save_small_t5(tmp_path / "t5", dropout=0.0)
    codec = train("lumen-vq", t5, questions, tmp_path / "codec", *QUANTIZER).json()["codec"]
    command = "lumen-vq", t5, questions
    options = "--codec", codec, "--validation", questions
    train(*command, tmp_path / "alone", *options, "--steps", 1)

    done = train(
        *command, tmp_path / "ray", *options, "--steps", 2, "--ray", "local", "--workers", 2
    )

    assert done.code == 0, done.err
    alone, spread = (Metrics(tmp_path / run / "metrics.jsonl").rows() for run in ("alone", "ray"))
    assert [row["step"] for row in spread] == [1, 2]
    for figure in ("loss", "grad_norm", "perplexity"):
        assert spread[0][figure] == pytest.approx(alone[0][figure], rel=1e-3)
    assert "step 2: validation EM" in done.err
    num_right = 12 * spread[1]["validation_em"]
    assert num_right == pytest.approx(round(num_right))


@pytest.mark.slow
@pytest.mark.ray
def test_an_error_in_a_worker_arrives_as_itself(
    ray_runner: RayRunner, train: Train, t5: Path, questions: Path, tmp_path: Path
) -> None:
    """A loss that is not finite; too many workers."""
    on_ray = "--ray", "local", "--workers"

    wild = train("lumen", t5, questions, tmp_path / "wild", *on_ray, 1, "--learning-rate", 1e30)
    many = train("lumen", t5, questions, tmp_path / "many", *on_ray, 512, "--batch-size", 512)

    assert wild.code == 1
    assert "step 2 has a loss of" in wild.err
    assert many.code == 2
    assert "512 workers: the Ray cluster has" in many.err
