"""The command line in this process, and a tiny encoder that makes jobs quick."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memstore.cli.main import run
from tests.tiny import make_records, save_encoder, write_jsonl


@dataclass(frozen=True)
class Done:
    """A command that has run."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, parsed."""
        return json.loads(self.out)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Return `cli(*arguments)`: run one `memstore` command here; a traceback fails the test."""

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder; the encoder's memories are 32 wide."""
    return save_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture
def encode(cli: Callable[..., Done], tiny_encoder: Path, tmp_path: Path) -> Callable[..., Done]:
    """Return `encode(corpus, *options, store=…, ray="none")`: the encode command with the tiny
    encoder and small partitions; the store is `tmp_path / "store"` by default.
    """

    def call(corpus: Path, *options: object, store: Path | None = None, ray: str = "none") -> Done:
        return cli(
            *("encode", corpus, "--store", store or tmp_path / "store", "--ray", ray),
            *("--encoder", tiny_encoder, "--window-tokens", 32, "--partition-bytes", 1500),
            *("--output", "json", *options),
        )

    return call


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
