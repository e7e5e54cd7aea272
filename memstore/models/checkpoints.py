"""A trained model as a folder: `config.json`, `model.safetensors`, and small files beside them.

A folder is there whole or not at all. Only safetensors: a pickle runs code when it is read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from memstore.errors import (
    ConfigError,
    CorruptionError,
    FormatVersionError,
    MemstoreError,
    NotFoundError,
    StorageError,
    StorageFullError,
)

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
_FORMAT = 1
_PREFIX = "memstore-"
_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_MAX_NAMED = 3


def write_checkpoint(
    folder: Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model, all or nothing.

    Args:
        folder: where; not there yet, or empty.
        kind: which model, such as `"lumen"`.
        config: JSON values; what the model is built from.
        tensors: by name, each with a storage of its own (`collect_weights` gives such).
        files: by name, what else lies in the folder, such as `tokenizer.json`.

    Raises:
        ConfigError: if the folder holds something.
        StorageFullError, StorageError: if it cannot be written.
    """
    header = {"model_type": f"{_PREFIX}{kind}", "format": _FORMAT}
    write_folder(folder, config={**header, **config}, tensors=tensors, files=files)


def write_folder(
    folder: Path,
    *,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """As `write_checkpoint`, with `config` as it is: for layouts that others read."""
    with _staged(folder) as stage:
        for name, content in (files or {}).items():
            (stage / name).write_bytes(content)
        stored = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        # transformers reads no file that does not say which framework wrote it.
        save_file(stored, stage / WEIGHTS_FILE, metadata={"format": "pt"})
        text = json.dumps(config, indent=2, sort_keys=True)
        (stage / CONFIG_FILE).write_text(f"{text}\n", encoding="utf-8")


def read_checkpoint(folder: Path, *, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read what `write_checkpoint` wrote: its config and its tensors, on the CPU.

    Raises:
        NotFoundError: if there is no checkpoint.
        ConfigError: if it is of another kind, or its weights are pickles.
        FormatVersionError: if a newer memstore wrote it.
        CorruptionError: if a file is missing or does not parse.
    """
    config = _read_config(folder)
    got = config.pop("model_type", None)
    if got != f"{_PREFIX}{kind}":
        raise ConfigError(
            f"checkpoint {folder}: model_type is {got!r}, wanted {_PREFIX}{kind!s}; name a folder "
            "that this model was saved to",
            source=folder,
        )
    version = config.pop("format", None)
    if type(version) is int and version > _FORMAT:
        raise FormatVersionError(
            f"checkpoint {folder}: format {version}, this memstore reads up to {_FORMAT}; upgrade",
            source=folder,
        )
    if version != _FORMAT:
        raise _damaged(folder / CONFIG_FILE, f"format is {version!r}, wanted {_FORMAT}")
    return config, _read_tensors(folder)


def checkpoint_kind(folder: Path) -> str | None:
    """Return the kind of model in a folder; None if `write_checkpoint` did not write it.

    Raises:
        NotFoundError: if there is no `config.json`. CorruptionError: if it does not parse.
    """
    model_type = str(_read_config(folder).get("model_type"))
    return model_type.removeprefix(_PREFIX) if model_type.startswith(_PREFIX) else None


def collect_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's parameters and persistent buffers, a shared one under its first name."""
    seen: set[int] = set()
    weights = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            weights[name] = tensor.detach()
    return weights


def load_weights(module: nn.Module, tensors: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Put tensors into a module, exactly those that `collect_weights` names.

    The module takes them as they are, their dtype included, so it may be built on the meta device;
    what it shares stays shared, what it froze stays frozen.

    Args:
        module: what is filled.
        tensors: by name, in the shapes of the module's own.
        where: what they were read from, for an error.

    Raises:
        CorruptionError: if one is missing, too many, or of another shape or kind of number.
    """
    own = module.state_dict(keep_vars=True)
    first_names: dict[int, str] = {}
    for name, tensor in own.items():
        first_names.setdefault(id(tensor), name)
    wanted = {name: own[name] for name in first_names.values()}
    unfit = [
        name
        for name in wanted.keys() & tensors.keys()
        if wanted[name].shape != tensors[name].shape
        or wanted[name].is_floating_point() != tensors[name].is_floating_point()
    ]
    faults = {
        "missing": wanted.keys() - tensors.keys(),
        "too many": tensors.keys() - wanted.keys(),
        "of another shape": unfit,
    }
    if any(faults.values()):
        raise CorruptionError(
            f"{where}: weights are not those of the model in its config: "
            + "; ".join(_listed(what, names) for what, names in faults.items() if names)
            + "; restore the checkpoint",
            object=where,
        )
    taken = {
        name: nn.Parameter(tensors[name], requires_grad=tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else tensors[name]
        for name, tensor in wanted.items()
    }
    state = {name: taken[first_names[id(tensor)]] for name, tensor in own.items()}
    module.load_state_dict(state, assign=True)


def _listed(what: str, names: Any) -> str:
    shown = sorted(names)[:_MAX_NAMED]
    return f"{len(names)} {what} ({', '.join(shown)}{', …' if len(names) > len(shown) else ''})"


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as err:
        raise NotFoundError(
            f"{folder}: no checkpoint here: {CONFIG_FILE} is missing", object=path
        ) from err
    except ValueError as err:
        raise _damaged(path, "it is not JSON") from err
    except OSError as err:
        raise StorageError(f"{path}: cannot be read: {err}", object=path) from err
    if not isinstance(config, dict):
        raise _damaged(path, "it is not a JSON object")
    return config


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickles = sorted(each.name for each in folder.iterdir() if each.suffix in _PICKLE_SUFFIXES)
        if pickles:
            raise ConfigError(
                f"checkpoint {folder}: got only {', '.join(pickles)}, wanted {WEIGHTS_FILE}: "
                "safetensors only, since pickles run code",
                source=folder,
            )
        raise _damaged(path, "it is missing")
    try:
        # A copy: what `load_file` gives is the file itself, mapped, and begins where it does there.
        # Some processors' products differ in the last bits with how their operands are aligned.
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except SafetensorError as err:
        raise _damaged(path, "it is no safetensors file or is cut short") from err
    except OSError as err:
        raise StorageError(f"{path}: cannot be read: {err}", object=path) from err


def _damaged(path: Path, what: str) -> CorruptionError:
    return CorruptionError(f"{path}: {what}; restore the checkpoint", object=path)


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder` that takes its name when all is written and synced."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder}: got a folder that holds something, wanted a new or an empty one",
            source=folder,
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield stage
            # Temporary folders and safetensors files keep others out; a model is for all users.
            stage.chmod(0o755)
            for path in stage.iterdir():
                path.chmod(0o644)
                _sync(path)
            _sync(stage)
            stage.rename(folder)
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        _sync(folder.parent)
    except (OSError, SafetensorError) as err:
        raise _storage_error(folder, err) from err


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(folder: Path, err: Exception) -> MemstoreError:
    if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(f"{folder}: no space left to write the model; free some")
    return StorageError(f"{folder}: the model cannot be written: {err}", object=folder)
