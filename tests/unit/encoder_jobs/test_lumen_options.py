"""What a training run may be asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from encoder_jobs.lumen_options import TrainOptions
from encoder_jobs.training_sources import absolute
from memstore.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freeze": "decoder", "is_quantized": True}, "freeze: got 'decoder'"),
        ({"optimizer": "sgd"}, "optimizer: got 'sgd'"),
        ({"precision": "float16"}, "precision: got 'float16'"),
        ({"steps": 0}, "steps: got 0, wanted 1 or more"),
        ({"micro_batch": -1}, "micro_batch: got -1"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan"),
        ({"seed": -1}, "seed: got -1"),
        ({"live_fraction": "2"}, "live_fraction"),
        ({"template": "{body}"}, "template"),
        ({"window_tokens": 0}, "window_tokens"),
        ({"freeze": "all"}, "freeze: a LUMEN without a quantizer"),
        ({"codebook_size": 16}, "codebook_size: a LUMEN without a quantizer"),
        ({"is_quantized": True, "codec": "c", "num_subspaces": 2}, "num_subspaces: a codec"),
    ],
)
def test_what_cannot_be_trained_is_refused(options: dict[str, Any], said: str) -> None:
    """With the option and what it was."""
    with pytest.raises(ConfigError, match=said):
        TrainOptions(source="t5", **options)


def test_options_come_back_from_json() -> None:
    """As they are kept beside a run."""
    options = TrainOptions(source="t5", is_quantized=True, freeze="all", codebook_size=4)

    assert TrainOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


@pytest.mark.parametrize(
    ("options", "trains"),
    [
        ({}, (True, False)),
        ({"is_quantized": True}, (True, True)),
        ({"is_quantized": True, "freeze": "memory-encoder"}, (True, False)),
        ({"is_quantized": True, "freeze": "all"}, (False, False)),
    ],
)
def test_modes_say_what_they_train(options: dict[str, Any], trains: tuple[bool, bool]) -> None:
    """Anything of the model; its memory encoder."""
    chosen = TrainOptions(source="t5", **options)

    assert (chosen.trains_model, chosen.trains_memory_encoder) == trains


def test_folders_are_named_for_good_and_names_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker looks for them from elsewhere."""
    (tmp_path / "t5").mkdir()
    monkeypatch.chdir(tmp_path)

    assert absolute("t5") == str(tmp_path / "t5")
    assert absolute("google/t5-v1_1-small") == "google/t5-v1_1-small"
    assert absolute("") == ""
