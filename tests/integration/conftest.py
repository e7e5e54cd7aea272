"""The command line in this process, and a tiny encoder that makes jobs quick."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memstore.cli.main import run
from tests.tiny import save_encoder


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
