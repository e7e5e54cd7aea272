"""A LUMEN model is saved and loaded as it is; what is no model of its kind is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memstore.errors import (
    ConfigError,
    CorruptionError,
    EncoderNotFoundError,
    NotFoundError,
)
from memstore.models.lumen import Lumen
from tests.tiny import save_encoder
from tests.tiny_t5 import (
    make_batch,
    save_t5,
    t5_config,
)

FRACTIONS = ["1", "2/3", "1/3", "0"]


@pytest.fixture(scope="module", params=[False, True], ids=["v1.0", "v1.1"])
def t5_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of either variant."""
    return save_t5(tmp_path_factory.mktemp("t5") / "t5", is_gated=request.param)


@pytest.mark.parametrize("live_fraction", FRACTIONS)
def test_a_saved_model_is_the_same_when_loaded(
    t5_folder: Path, tmp_path: Path, live_fraction: str
) -> None:
    """Every weight to the bit, the config, and the ids that it generates."""
    model = Lumen.from_pretrained(t5_folder, live_fraction=live_fraction)

    model.save_pretrained(tmp_path / "lumen", t5_folder / "tokenizer.json")
    loaded = Lumen.from_pretrained(tmp_path / "lumen")

    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loaded.config == model.config
    assert not loaded.training
    assert loaded.is_memory_encoder_frozen == model.is_memory_encoder_frozen
    assert torch.equal(
        loaded.generate(*make_batch(loaded), max_new_tokens=6),
        model.generate(*make_batch(model), max_new_tokens=6),
    )
    assert loaded.generator.lm_head.weight.requires_grad
    tokenizer = t5_folder / "tokenizer.json"
    assert (tmp_path / "lumen" / "tokenizer.json").read_bytes() == tokenizer.read_bytes()


def test_a_model_in_bfloat16_is_saved_as_such(t5_folder: Path, tmp_path: Path) -> None:
    """Half the bytes, and no rounding twice."""
    model = Lumen.from_pretrained(t5_folder).bfloat16()

    model.save_pretrained(tmp_path / "lumen", None)

    stored = load_file(tmp_path / "lumen" / "model.safetensors")
    assert {each.dtype for each in stored.values()} == {torch.bfloat16}
    assert {each.dtype for each in Lumen.from_pretrained(tmp_path / "lumen").parameters()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("live_fraction", ["1/4", "2", "half", "-1/3"])
def test_a_fraction_that_cuts_no_whole_layer_is_refused(
    t5_folder: Path, live_fraction: str
) -> None:
    """By the same rule as for `memstore encode`."""
    with pytest.raises(ConfigError, match="live_fraction"):
        Lumen.from_pretrained(t5_folder, live_fraction=live_fraction)
    with pytest.raises(ConfigError, match="live_fraction"):
        Lumen.from_t5(t5_config(), live_fraction=live_fraction)


def test_another_family_is_refused(tmp_path: Path) -> None:
    """A BERT has no decoder."""
    with pytest.raises(ConfigError, match="model_type is 'bert', wanted 't5'"):
        Lumen.from_pretrained(save_encoder(tmp_path / "bert"), live_fraction="1/3")


def test_an_encoder_without_a_decoder_is_refused(t5_folder: Path, tmp_path: Path) -> None:
    """What `export_encoder` writes is no reader."""
    model = Lumen.from_pretrained(t5_folder)
    model.export_encoder(tmp_path / "encoder", t5_folder / "tokenizer.json")

    with pytest.raises(ConfigError, match=r"tensors missing, 0 too many"):
        Lumen.from_pretrained(tmp_path / "encoder")


def test_nothing_there_is_not_found(tmp_path: Path) -> None:
    """A path that is no folder, and a folder without a checkpoint."""
    with pytest.raises(EncoderNotFoundError):
        Lumen.from_pretrained(tmp_path / "none")
    with pytest.raises(EncoderNotFoundError):
        Lumen.from_pretrained(tmp_path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    """Of T5 and of LUMEN alike."""
    folder = save_t5(tmp_path / "t5")
    Lumen.from_pretrained(folder).save_pretrained(tmp_path / "lumen", None)

    for each in (folder, tmp_path / "lumen"):
        (each / "model.safetensors").rename(each / "pytorch_model.bin")
        with pytest.raises(ConfigError, match=r"only pytorch_model\.bin"):
            Lumen.from_pretrained(each)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("decoder.block.1.layer.0.SelfAttention.q.weight", None, "1 tensors missing"),
        ("encoder.block.9.layer.0.SelfAttention.q.weight", (16, 16), "1 too many"),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", (8, 16), "make no model together"),
    ],
)
def test_a_t5_with_other_weights_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    """Missing, too many, of another shape: nothing is drawn at random in their place."""
    folder = save_t5(tmp_path / "t5")
    _change_weight(folder, name, shape)

    with pytest.raises(ConfigError, match=message):
        Lumen.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("question_encoder.block.0.layer.0.SelfAttention.q.weight", None, "1 missing"),
        ("memory_encoder.block.9.layer.0.SelfAttention.q.weight", (16, 16), "1 too many"),
        ("generator.shared.weight", (7, 16), "1 of another shape"),
    ],
)
def test_a_lumen_with_other_weights_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    """The same of a saved model, which only damage explains."""
    Lumen.from_pretrained(save_t5(tmp_path / "t5")).save_pretrained(tmp_path / "lumen", None)
    _change_weight(tmp_path / "lumen", name, shape)

    with pytest.raises(CorruptionError, match=message):
        Lumen.from_pretrained(tmp_path / "lumen")


def _change_weight(folder: Path, name: str, shape: tuple[int, ...] | None) -> None:
    path = folder / "model.safetensors"
    tensors = {each: tensor.clone() for each, tensor in load_file(path).items()}
    tensors.pop(name, None)
    if shape is not None:
        tensors[name] = torch.zeros(shape)
    save_file(tensors, path, metadata={"format": "pt"})


def test_cut_weights_of_a_t5_are_corruption(tmp_path: Path) -> None:
    """A download that stopped half way."""
    folder = save_t5(tmp_path / "t5")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])

    with pytest.raises(CorruptionError, match="cut short"):
        Lumen.from_pretrained(folder)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_frozen_layers", 7, "a size is out of range"),
        ("num_frozen_layers", "2", "num_frozen_layers is '2'"),
        ("encoder_id", 7, "encoder_id is 7"),
        ("unknown", 1, "unexpected keyword argument 'unknown'"),
        ("t5", {"num_layers": 2}, "a size is out of range"),
        ("t5", {"d_model": "wide"}, "d_model"),
        ("t5", {"d_model": 0}, "a size is out of range"),
        ("t5", {"feed_forward_proj": "a-b-c"}, "feed_forward_proj"),
        ("t5", {"attn_implementation": "someone/kernel"}, "t5 has unknown attn_implementation"),
        ("t5", {"d_ff": 8}, "28 of another shape"),
    ],
)
def test_a_config_that_is_not_one_is_corruption(
    tmp_path: Path, field: str, value: Any, message: str
) -> None:
    """Out of range, of another type, unknown, no T5, or one that the weights are not of."""
    Lumen.from_pretrained(save_t5(tmp_path / "t5")).save_pretrained(tmp_path / "lumen", None)
    path = tmp_path / "lumen" / "config.json"
    config = json.loads(path.read_text())
    config[field] = {**config["t5"], **value} if field == "t5" else value
    path.write_text(json.dumps(config))

    with pytest.raises(CorruptionError, match=message):
        Lumen.from_pretrained(tmp_path / "lumen")


def test_a_missing_tokenizer_is_named(t5_folder: Path, tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(NotFoundError, match=r"none\.json: no tokenizer here"):
        Lumen.from_pretrained(t5_folder).save_pretrained(tmp_path / "lumen", tmp_path / "none.json")

    assert list(tmp_path.iterdir()) == []
