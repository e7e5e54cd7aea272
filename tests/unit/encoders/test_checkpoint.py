"""A checkpoint folder is read without torch, or refused for a reason that says how to mend it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memstore.encoders.checkpoint import open_checkpoint
from memstore.encoders.families import FAMILIES
from memstore.errors import ConfigError, CorruptionError, EncoderNotFoundError
from memstore.types import canonical_json

SaveCheckpoint = Callable[..., Path]
HUGGING_FACE = sorted(name for name, family in FAMILIES.items() if family.architecture)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("model_type", HUGGING_FACE)
def test_shape_is_read_from_the_config(save_checkpoint: SaveCheckpoint, model_type: str) -> None:
    """Depth and width come out for every family under its own field names."""
    checkpoint = open_checkpoint(str(save_checkpoint(model_type)))

    assert (checkpoint.num_layers, checkpoint.width) == (3, 32)


@pytest.mark.parametrize(
    ("model_type", "max_tokens"),
    [("bert", 140), ("roberta", 138), ("distilbert", 140), ("t5", None)],
)
def test_longest_input_is_the_table_of_positions(
    save_checkpoint: SaveCheckpoint, model_type: str, max_tokens: int | None
) -> None:
    """RoBERTa keeps two rows of its table for itself; T5 has no table."""
    assert open_checkpoint(str(save_checkpoint(model_type))).max_tokens == max_tokens


def test_digests_are_those_of_the_files(save_checkpoint: SaveCheckpoint) -> None:
    """A single weight file's digest is what sha256sum prints."""
    folder = save_checkpoint("bert")

    checkpoint = open_checkpoint(str(folder))

    weights, tokenizer = folder / "model.safetensors", folder / "tokenizer.json"
    assert checkpoint.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert checkpoint.tokenizer_sha256 == hashlib.sha256(tokenizer.read_bytes()).hexdigest()


def test_digest_notices_a_replaced_file(save_checkpoint: SaveCheckpoint) -> None:
    """The digest is remembered for a file, not for a path."""
    folder = save_checkpoint("bert")
    before = open_checkpoint(str(folder)).tokenizer_sha256

    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")

    assert open_checkpoint(str(folder)).tokenizer_sha256 != before


def test_sharded_weights_are_digested_together(save_checkpoint: SaveCheckpoint) -> None:
    """Every shard that the index names counts; a file that it does not name does not."""
    folder = save_checkpoint("bert")
    (folder / "model.safetensors").unlink()
    shards = {"m-1.safetensors": b"one", "m-2.safetensors": b"two"}
    for name, content in shards.items():
        (folder / name).write_bytes(content)
    (folder / "other.safetensors").write_bytes(b"three")
    weight_map = {"x": "m-2.safetensors", "y": "m-1.safetensors", "z": "m-2.safetensors"}
    _write(folder / "model.safetensors.index.json", {"weight_map": weight_map})

    digest = open_checkpoint(str(folder)).weights_sha256

    digests = {name: hashlib.sha256(content).hexdigest() for name, content in shards.items()}
    assert digest == hashlib.sha256(canonical_json(digests)).hexdigest()


def test_missing_shard_is_corruption(save_checkpoint: SaveCheckpoint) -> None:
    """A download that stopped half way is named, with the first file that is missing."""
    folder = save_checkpoint("bert")
    (folder / "model.safetensors").unlink()
    weight_map = {"x": "m-1.safetensors", "y": "m-2.safetensors"}
    _write(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    (folder / "m-1.safetensors").write_bytes(b"one")

    with pytest.raises(CorruptionError, match=r"1 of 2 weight files.*m-2\.safetensors"):
        open_checkpoint(str(folder))


def test_pickled_weights_are_refused(save_checkpoint: SaveCheckpoint) -> None:
    """A pickle is never opened; the error says how to convert it."""
    folder = save_checkpoint("bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(ConfigError, match=r"only pytorch_model\.bin.*safetensors only.*convert"):
        open_checkpoint(str(folder))


def test_folder_without_weights_is_refused(save_checkpoint: SaveCheckpoint) -> None:
    """No weights at all is said as such."""
    folder = save_checkpoint("bert")
    (folder / "model.safetensors").unlink()

    with pytest.raises(ConfigError, match="got no weights"):
        open_checkpoint(str(folder))


def test_missing_tokenizer_is_refused(save_checkpoint: SaveCheckpoint) -> None:
    """Without tokenizer.json there is no telling what the ids would mean."""
    folder = save_checkpoint("bert")
    (folder / "tokenizer.json").unlink()

    with pytest.raises(ConfigError, match=r"no tokenizer\.json; write one with"):
        open_checkpoint(str(folder))


def test_folder_without_config_is_no_encoder(tmp_path: Path) -> None:
    """Any other folder is not found as an encoder."""
    with pytest.raises(EncoderNotFoundError, match=r"no config\.json"):
        open_checkpoint(str(tmp_path))


def test_the_model_in_a_folder_of_a_run_is_named(tmp_path: Path) -> None:
    """The folder of `memstore train longvq` is not it."""
    _write(tmp_path / "model/config.json", {})

    with pytest.raises(EncoderNotFoundError, match=f"did you mean {tmp_path}/model?"):
        open_checkpoint(str(tmp_path))


def test_unreadable_config_is_corruption(save_checkpoint: SaveCheckpoint) -> None:
    """A config cut short is named."""
    folder = save_checkpoint("bert")
    (folder / "config.json").write_text('{"model_type": "be')

    with pytest.raises(CorruptionError, match=r"config\.json"):
        open_checkpoint(str(folder))


def test_unknown_family_is_refused(save_checkpoint: SaveCheckpoint) -> None:
    """A decoder-only model is refused with the list of what is read."""
    folder = save_checkpoint("bert")
    _write(folder / "config.json", {"model_type": "gpt2"})

    with pytest.raises(ConfigError, match="'gpt2', wanted one of bert"):
        open_checkpoint(str(folder))


def test_config_without_a_width_is_refused(save_checkpoint: SaveCheckpoint) -> None:
    """A missing field is named when it is needed."""
    folder = save_checkpoint("bert")
    _write(folder / "config.json", {"model_type": "bert"})

    with pytest.raises(ConfigError, match="hidden_size = None"):
        _ = open_checkpoint(str(folder)).width


def test_adapter_is_refused(save_checkpoint: SaveCheckpoint) -> None:
    """An adapter would change the output without changing the digest of the weights."""
    folder = save_checkpoint("bert")
    _write(folder / "adapter_config.json", {})

    with pytest.raises(ConfigError, match="merge it"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_pooling_is_read_in_both_layouts(
    save_checkpoint: SaveCheckpoint, config: dict[str, Any], pooling: str
) -> None:
    """Old and new sentence-transformers files say the same thing in two ways."""
    folder = save_checkpoint("bert")
    module = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
    _write(folder / "modules.json", [module])
    _write(folder / "1_Pooling" / "config.json", config)

    assert open_checkpoint(str(folder)).pooling == pooling


def test_pooling_is_mean_where_nothing_says_otherwise(save_checkpoint: SaveCheckpoint) -> None:
    """A bare checkpoint has no sentence-transformers files."""
    assert open_checkpoint(str(save_checkpoint("bert"))).pooling == "mean"


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode": ["mean", "max"]},
    ],
)
def test_other_pooling_is_refused(save_checkpoint: SaveCheckpoint, config: dict[str, Any]) -> None:
    """Vectors that would be wrong are refused, not approximated."""
    folder = save_checkpoint("bert")
    _write(folder / "modules.json", [{"type": "x.Pooling", "path": "1_Pooling"}])
    _write(folder / "1_Pooling" / "config.json", config)

    with pytest.raises(ConfigError, match="wanted 'mean' or 'cls'"):
        _ = open_checkpoint(str(folder)).pooling


def test_dense_head_is_refused(save_checkpoint: SaveCheckpoint) -> None:
    """A projection after pooling would be lost."""
    folder = save_checkpoint("t5")
    _write(folder / "modules.json", [{"type": "sentence_transformers.models.Dense", "path": "2"}])

    with pytest.raises(ConfigError, match="pass through Dense"):
        _ = open_checkpoint(str(folder)).pooling
