"""A MELODI model is saved and loaded as it is; configs that describe none are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from memstore.errors import ConfigError, CorruptionError, NotFoundError
from memstore.models.melodi import Melodi
from memstore.models.melodi_config import Architecture, parse_config
from memstore.models.vq import ProductVQ
from tests.tiny_melodi import VARIANTS, make_model, make_tokens, tiny_config


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_saved_model_is_the_same_when_loaded(changes: dict[str, Any], tmp_path: Path) -> None:
    """Config, logits to the bit, eval mode, and the tokenizer beside it."""
    model = make_model(**changes)

    model.save_pretrained(tmp_path / "melodi", b'{"version": "1.0"}')
    loaded = Melodi.from_pretrained(tmp_path / "melodi")

    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded(make_tokens(3)).logits, model(make_tokens(3)).logits)
    assert (tmp_path / "melodi" / "tokenizer.json").read_bytes() == b'{"version": "1.0"}'
    assert {each.requires_grad for each in loaded.parameters()} == {True}


def test_a_model_in_bfloat16_reads_in_bfloat16(tmp_path: Path) -> None:
    """Weights and state have its dtype, and nothing is rounded twice."""
    make_model().bfloat16().save_pretrained(tmp_path / "melodi")

    model = Melodi.from_pretrained(tmp_path / "melodi")
    output = model(make_tokens(2))

    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    assert output.logits.dtype == torch.bfloat16
    assert output.logits.isfinite().all()
    dtypes = {each.dtype for each in output.state.to_tensors().values()}
    assert dtypes == {torch.bfloat16, torch.int64}
    assert not (tmp_path / "melodi" / "tokenizer.json").exists()


def test_a_quantizer_is_not_saved_with_the_model(tmp_path: Path) -> None:
    """Refused as long as it is there; without it the queue is as it was before."""
    model, tokens = make_model(), make_tokens(3)
    before = model(tokens).state.to_tensors()["queue"]
    quantizer = ProductVQ(model.config.dim, 2, 4)
    quantizer.initialize(torch.randn(32, model.config.dim, dtype=before.dtype))
    assert model.quantize_queue(quantizer.eval()) is None

    assert not torch.equal(model(tokens).state.to_tensors()["queue"], before)
    with pytest.raises(ConfigError, match="saved as a codec"):
        model.save_pretrained(tmp_path / "melodi")
    assert model.quantize_queue(None) is quantizer
    assert torch.equal(model(tokens).state.to_tensors()["queue"], before)
    model.save_pretrained(tmp_path / "melodi")


def test_a_quantizer_learns_from_whole_windows_alone() -> None:
    """Not from padding: a second text, shorter than a window, moves nothing."""
    learnt = []
    for lengths in ([3 * tiny_config().window], [3 * tiny_config().window, 1]):
        model = make_model(dropout=0.0)
        torch.manual_seed(1)
        quantizer = ProductVQ(model.config.dim, 2, 4, reset_below=None)
        quantizer.initialize(torch.randn(32, model.config.dim))
        model.quantize_queue(quantizer)
        model.train()
        tokens = make_tokens(3)[: len(lengths)]
        model(tokens, lengths=torch.tensor(lengths))
        assert quantizer.num_updates == 3
        learnt.append(quantizer.codebook)
    torch.testing.assert_close(*learnt, rtol=1e-6, atol=1e-6)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Nothing there, another kind of model, and weights of another shape."""
    with pytest.raises(NotFoundError):
        Melodi.from_pretrained(tmp_path / "nowhere")
    make_model().save_pretrained(tmp_path / "melodi")
    path = tmp_path / "melodi" / "config.json"
    config = json.loads(path.read_text())

    path.write_text(json.dumps({**config, "model_type": "memstore-lumen"}))
    with pytest.raises(ConfigError, match="memstore-melodi"):
        Melodi.from_pretrained(tmp_path / "melodi")

    path.write_text(json.dumps({**config, "num_short_tokens": 6}))
    with pytest.raises(CorruptionError, match="weights"):
        Melodi.from_pretrained(tmp_path / "melodi")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dim", "16"),
        ("dim", 0),
        ("dim", True),
        ("num_heads", 3),
        ("architecture", "lstm"),
        ("long_layer", 4),
        ("long_layer", -1),
        ("dropout", 1.0),
        ("has_branching", 1),
    ],
)
def test_a_config_that_describes_no_model_is_refused(field: str, value: object) -> None:
    """As damage, with the folder it came from."""
    values = {**tiny_config().to_dict(), field: value}

    with pytest.raises(CorruptionError, match=r"folder: config\.json"):
        parse_config(values, where="folder")


def test_a_config_with_fields_missing_or_unknown_is_refused() -> None:
    """Both ways."""
    values = tiny_config().to_dict()

    with pytest.raises(CorruptionError, match="window"):
        parse_config({name: each for name, each in values.items() if name != "window"}, where="x")
    with pytest.raises(CorruptionError, match="extra"):
        parse_config({**values, "extra": 1}, where="x")


def test_a_config_is_read_back_as_it_was() -> None:
    """Through JSON, every architecture."""
    for architecture in Architecture:
        config = tiny_config(architecture=architecture, long_layer=1)
        values = json.loads(json.dumps(config.to_dict()))

        assert parse_config(values, where="x") == config


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"num_heads": 3}, "num_heads"),
        ({"window": 0}, "window"),
        ({"num_long_tokens": -1}, "num_long_tokens"),
        ({"long_layer": 4}, "long_layer"),
        ({"dropout": -0.1}, "dropout"),
        ({"has_branching": False, "num_summary_tokens": 7}, "num_summary_tokens"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(changes: dict[str, Any], option: str) -> None:
    """With the option that is to blame."""
    with pytest.raises(ConfigError, match=option) as caught:
        tiny_config(**changes)
    assert caught.value.details["option"] == option
