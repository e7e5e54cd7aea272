"""LongVQ models and states are stored and loaded as they are; what describes none is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memstore.errors import ConfigError, CorruptionError, NotFoundError
from memstore.models.longvq import LongVQ
from memstore.models.longvq_config import parse_config
from memstore.models.longvq_state import LongVQState, state_shapes
from tests.tiny_longvq import VARIANTS, make_model, make_tokens, tiny_config

ALL = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())


@ALL
def test_a_saved_model_is_the_same_when_loaded(changes: dict[str, Any], tmp_path: Path) -> None:
    """Config, states to the bit, eval mode, codebooks, and the tokenizer beside it."""
    model = make_model(**changes)

    model.save_pretrained(tmp_path / "longvq", b'{"version": "1.0"}')
    loaded = LongVQ.from_pretrained(tmp_path / "longvq")

    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded(make_tokens(30)).hidden, model(make_tokens(30)).hidden)
    assert torch.equal(loaded.usage_perplexity(), model.usage_perplexity())
    assert (tmp_path / "longvq" / "tokenizer.json").read_bytes() == b'{"version": "1.0"}'
    loaded.train()
    loaded.loss(loaded(make_tokens(30)), make_tokens(30)).backward()


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Nothing there, another kind of model, and a config of another shape."""
    with pytest.raises(NotFoundError):
        LongVQ.from_pretrained(tmp_path / "nowhere")
    make_model().save_pretrained(tmp_path / "longvq")
    path = tmp_path / "longvq" / "config.json"
    config = json.loads(path.read_text())

    path.write_text(json.dumps({**config, "model_type": "memstore-lumen"}))
    with pytest.raises(ConfigError, match="memstore-longvq"):
        LongVQ.from_pretrained(tmp_path / "longvq")

    path.write_text(json.dumps({**config, "num_codes": 6}))
    with pytest.raises(CorruptionError, match="of another shape"):
        LongVQ.from_pretrained(tmp_path / "longvq")


@pytest.mark.parametrize(
    "change",
    [{"dim": "16"}, {"ssm": "ema"}, {"is_causal": 1}, {"weighting": "relu"}, {"decay": 1.0}],
    ids=str,
)
def test_a_damaged_config_is_refused(change: dict[str, Any]) -> None:
    """A wrong type, an unknown field, an unknown kind, a value out of range."""
    with pytest.raises(CorruptionError, match="LongVQ"):
        parse_config({**tiny_config().to_dict(), **change}, where="here")


def test_a_config_survives_json() -> None:
    """As `config.json` has it."""
    config = tiny_config(**VARIANTS["laplace"])
    assert parse_config(json.loads(json.dumps(config.to_dict())), where="here") == config


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"window": 0},
        {"num_codes": 1},
        {"num_heads": 3},
        {"state_size": 5},
        {"dropout": 1.0},
        {"commitment": -1.0},
    ],
    ids=str,
)
def test_a_config_of_no_model_is_refused(change: dict[str, Any]) -> None:
    """The field is named."""
    with pytest.raises(ConfigError, match=next(iter(change))):
        tiny_config(**change)


@ALL
def test_a_text_goes_on_from_a_stored_state(changes: dict[str, Any], tmp_path: Path) -> None:
    """To the bit, through a safetensors file; shapes are known beforehand."""
    model, tokens = make_model(**changes), make_tokens(40)
    state = model(tokens[:, :17], None, model.initial_state(2)).state
    assert state is not None

    save_file(state.to_tensors(), tmp_path / "state.safetensors")
    loaded = LongVQState.from_tensors(load_file(tmp_path / "state.safetensors"), where="a file")

    shapes = {name: shape for name, (shape, _) in state_shapes(model.config, 2).items()}
    assert {name: tuple(each.shape) for name, each in state.to_tensors().items()} == shapes
    kept = model(tokens[:, 17:], None, state).hidden
    assert torch.equal(model(tokens[:, 17:], None, loaded.to("cpu")).hidden, kept)


@ALL
def test_a_row_that_is_reset_begins_a_new_text(changes: dict[str, Any]) -> None:
    """The others go on."""
    model, tokens = make_model(**changes), make_tokens(40)
    state = model(tokens[:, :17], None, model.initial_state(2)).state
    assert state is not None

    fresh = state.reset(torch.tensor([True, False]))
    got = model(tokens[:, 17:], None, fresh).hidden

    torch.testing.assert_close(got[0], model(tokens[:, 17:]).hidden[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(got[1], model(tokens).hidden[1, 17:], rtol=0, atol=1e-10)


def test_a_state_of_something_else_is_refused() -> None:
    """A tensor missing, and one of another kind of number."""
    tensors = make_model().initial_state(2).to_tensors()
    with pytest.raises(CorruptionError, match="wanted"):
        LongVQState.from_tensors({"position": tensors["position"]}, where="a file")
    with pytest.raises(CorruptionError, match="codes has dtype"):
        LongVQState.from_tensors({**tensors, "codes": tensors["codes"].float()}, where="a file")
