"""A model's folder is there whole or not at all, and is read back as it was or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from memstore.errors import (
    ConfigError,
    CorruptionError,
    FormatVersionError,
    NotFoundError,
    StorageError,
)
from memstore.models.checkpoints import (
    checkpoint_kind,
    collect_weights,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)


class _Tied(nn.Module):
    """Two layers that share a matrix, one frozen parameter, one buffer that is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("scratch", torch.ones(2), persistent=False)


def _write(folder: Path, *, files: dict[str, bytes] | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {"a": torch.randn(3, 2), "b": torch.randn(4).bfloat16(), "n": torch.arange(5)}
    write_checkpoint(folder, kind="toy", config={"depth": 2}, tensors=tensors, files=files)
    return tensors


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_checkpoint_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Config, tensors with their dtypes, and the files beside them."""
    tensors = _write(tmp_path / "new" / "toy", files={"tokenizer.json": b"{}"})

    config, read = read_checkpoint(tmp_path / "new" / "toy", kind="toy")

    assert config == {"depth": 2}
    assert {name: each.dtype for name, each in read.items()} == {
        name: each.dtype for name, each in tensors.items()
    }
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert (tmp_path / "new" / "toy" / "tokenizer.json").read_bytes() == b"{}"
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "new" / "toy").iterdir()}
    assert modes == {0o644}  # for all users of the machine


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    """As a user makes one first; nothing temporary stays beside it."""
    (tmp_path / "toy").mkdir()

    _write(tmp_path / "toy")

    assert checkpoint_kind(tmp_path / "toy") == "toy"
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    """Nothing is overwritten, an older checkpoint least of all."""
    before = _write(tmp_path / "toy")

    with pytest.raises(ConfigError, match="holds something"):
        write_checkpoint(tmp_path / "toy", kind="other", config={}, tensors={})

    _, after = read_checkpoint(tmp_path / "toy", kind="toy")
    assert torch.equal(after["a"], before["a"])


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A file that cannot be written takes the whole folder with it."""
    with pytest.raises(StorageError, match="cannot be written"):
        _write(tmp_path / "toy", files={"no/such/folder": b""})

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["toy", "toy/config.json"])
def test_no_checkpoint_is_not_found(tmp_path: Path, missing: str) -> None:
    """No folder, or one without a config."""
    _write(tmp_path / "toy")
    (tmp_path / missing).rename(tmp_path / "gone")

    with pytest.raises(NotFoundError, match=r"config\.json is missing"):
        read_checkpoint(tmp_path / "toy", kind="toy")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    """Ours or another library's."""
    _write(tmp_path / "toy")

    with pytest.raises(ConfigError, match="model_type is 'memstore-toy', wanted memstore-lumen"):
        read_checkpoint(tmp_path / "toy", kind="lumen")
    _edit_config(tmp_path / "toy", model_type="bert")
    assert checkpoint_kind(tmp_path / "toy") is None


def test_a_newer_format_says_upgrade(tmp_path: Path) -> None:
    """Not read as if it were the format of today."""
    _write(tmp_path / "toy")
    _edit_config(tmp_path / "toy", format=2)

    with pytest.raises(FormatVersionError, match="format 2, this memstore reads up to 1; upgrade"):
        read_checkpoint(tmp_path / "toy", kind="toy")


@pytest.mark.parametrize(
    "config", ["{", "[]", '{"model_type": "memstore-toy"}', '{"model_type": "memstore-toy",'
               '"format": "1"}'],
)  # fmt: skip
def test_a_damaged_config_is_corruption(tmp_path: Path, config: str) -> None:
    """Cut short, no object, no format, or a format that is no number."""
    _write(tmp_path / "toy")
    (tmp_path / "toy" / "config.json").write_text(config)

    with pytest.raises(CorruptionError, match=r"config\.json"):
        read_checkpoint(tmp_path / "toy", kind="toy")


def test_cut_weights_are_corruption(tmp_path: Path) -> None:
    """A download that stopped half way; or no weights at all."""
    _write(tmp_path / "toy")
    weights = tmp_path / "toy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])

    with pytest.raises(CorruptionError, match="cut short"):
        read_checkpoint(tmp_path / "toy", kind="toy")
    weights.unlink()
    with pytest.raises(CorruptionError, match="it is missing"):
        read_checkpoint(tmp_path / "toy", kind="toy")


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    """A folder with only a pickle is refused, with the reason."""
    _write(tmp_path / "toy")
    weights = tmp_path / "toy" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))

    with pytest.raises(ConfigError, match=r"only pytorch_model\.bin.*pickles run code"):
        read_checkpoint(tmp_path / "toy", kind="toy")


def test_a_shared_tensor_is_collected_once() -> None:
    """Under its first name; buffers that are not saved are not collected."""
    assert set(collect_weights(_Tied())) == {"first.weight", "second.bias", "counts"}


def test_weights_load_into_a_module_on_the_meta_device() -> None:
    """What is shared stays shared, what is frozen stays frozen, dtypes are those of the file."""
    tensors = {
        "first.weight": torch.randn(3, 3).bfloat16(),
        "second.bias": torch.randn(3),
        "counts": torch.tensor([1, 2]),
    }
    with torch.device("meta"):
        module = _Tied()

    load_weights(module, tensors, where="toy")

    assert module.first.weight is module.second.weight
    assert (module.first.weight.requires_grad, module.second.bias.requires_grad) == (True, False)
    assert all(torch.equal(each, tensors[name]) for name, each in collect_weights(module).items())
    assert module.first.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("first.weight", None, r"1 missing \(first\.weight\)"),
        ("third.weight", torch.zeros(1), r"1 too many \(third\.weight\)"),
        ("second.bias", torch.zeros(4), r"1 of another shape \(second\.bias\)"),
        ("counts", torch.zeros(2), r"1 of another shape \(counts\)"),
    ],
)
def test_weights_of_another_model_are_refused(
    name: str, tensor: torch.Tensor | None, message: str
) -> None:
    """Missing, too many, misshapen, or floats for counts; the module keeps what it had."""
    module = _Tied()
    tensors = {each: value.clone() for each, value in collect_weights(module).items()}
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    before = module.first.weight.clone()

    with pytest.raises(CorruptionError, match=rf"toy: weights are not those.*{message}"):
        load_weights(module, tensors, where="toy")

    assert torch.equal(module.first.weight, before)


def test_many_faults_are_listed_in_short() -> None:
    """The first names stand for all of them."""
    tensors = {f"extra{number}": torch.zeros(1) for number in range(9)}

    with pytest.raises(CorruptionError, match=r"9 too many \(extra0, extra1, extra2, …\)"):
        load_weights(_Tied(), {**collect_weights(_Tied()), **tensors}, where="toy")


def test_the_weight_file_is_plain_safetensors(tmp_path: Path) -> None:
    """Any other tool reads it, and what it writes is read here."""
    tensors = _write(tmp_path / "toy")
    path = tmp_path / "toy" / "model.safetensors"
    loaded = load_file(path)
    assert torch.equal(loaded["b"], tensors["b"])

    save_file({"c": torch.ones(1)}, path)

    assert list(read_checkpoint(tmp_path / "toy", kind="toy")[1]) == ["c"]
