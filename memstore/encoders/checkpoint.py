"""What a checkpoint folder holds, read without torch: shape, digests, pooling.

Only safetensors: a pickle runs code when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from memstore.encoders.families import FAMILIES, Family
from memstore.encoders.sources import resolve_source
from memstore.errors import ConfigError, CorruptionError, EncoderNotFoundError, StorageError
from memstore.types import canonical_json

_SINGLE_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_PROVENANCE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
_POOLING_MODULES = {"Transformer", "Pooling", "Normalize"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that passed inspection.

    Attributes:
        folder: where it is.
        family: how its parts are named.
        config: its `config.json`.
        weight_files: the files that `transformers` loads, in order of name.
    """

    folder: Path
    family: Family
    config: Mapping[str, Any]
    weight_files: tuple[Path, ...]

    @property
    def num_layers(self) -> int:
        """Depth of the encoder's stack."""
        return self._count(self.family.num_layers_key)

    @property
    def width(self) -> int:
        """D, the width of the hidden state."""
        return self._count(self.family.width_key)

    @property
    def pad_token_id(self) -> int:
        """The id that fills a batch up; masked, so any id does where the config names none."""
        return int(self.config.get("pad_token_id") or 0)

    @property
    def max_tokens(self) -> int | None:
        """Longest input, special tokens included; None where positions are relative."""
        if not self.family.has_positions:
            return None
        reserved = self.pad_token_id + 1 if self.family.counts_from_pad else 0
        return self._count("max_position_embeddings") - reserved

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer, which needs no model to run."""
        return self.folder / "tokenizer.json"

    @property
    def tokenizer_sha256(self) -> str:
        """Digest of `tokenizer.json`."""
        return _sha256(self.tokenizer_file)

    @property
    def weights_sha256(self) -> str:
        """Digest of the weight file, or for several that of the canonical JSON {name: digest}."""
        digests = {path.name: _sha256(path) for path in self.weight_files}
        if len(digests) == 1:
            return next(iter(digests.values()))
        return hashlib.sha256(canonical_json(digests)).hexdigest()

    @property
    def config_sha256(self) -> str:
        """Digest of the config's canonical JSON, without what does not touch the output."""
        config = {key: value for key, value in self.config.items() if key not in _PROVENANCE}
        return hashlib.sha256(canonical_json(config)).hexdigest()

    @property
    def sha256(self) -> str:
        """Digest of weights, config and tokenizer together."""
        parts = [self.weights_sha256, self.config_sha256, self.tokenizer_sha256]
        return hashlib.sha256(canonical_json(parts)).hexdigest()

    @property
    def pooling(self) -> str:
        """`"mean"` or `"cls"`: how the top of the stack becomes one retrieval vector.

        Read from the sentence-transformers files if there are any, else `"mean"`.

        Raises:
            ConfigError: if the checkpoint makes its vectors in another way, which would not be
                reproduced.
        """
        modules = self.folder / "modules.json"
        if not modules.is_file():
            return "mean"
        kinds = {
            str(module["type"]).rpartition(".")[2]: module["path"]
            for module in _json(modules, list)
        }
        foreign = sorted(set(kinds) - _POOLING_MODULES)
        if foreign:
            raise ConfigError(
                f"checkpoint {self.folder}: retrieval vectors pass through {', '.join(foreign)}, "
                "wanted only pooling and normalization; name another retriever",
                source=self.folder,
            )
        if "Pooling" not in kinds:
            return "mean"
        return _pooling_mode(self.folder / kinds["Pooling"] / "config.json")

    def _count(self, key: str) -> int:
        value = self.config.get(key)
        if type(value) is not int or value < 1:
            raise ConfigError(
                f"checkpoint {self.folder}: config.json has {key} = {value!r}, wanted a whole "
                "number above 0",
                source=self.folder,
            )
        return value


def open_checkpoint(source: str) -> Checkpoint:
    """Resolve a source and inspect its folder.

    Raises:
        EncoderNotFoundError: if there is no such encoder, or its folder has no `config.json`.
        ConfigError: if it is of an unknown family, has no `tokenizer.json`, holds an adapter, or
            only pickled weights.
        CorruptionError: if a JSON file does not parse or a shard of the weights is missing.
    """
    folder = resolve_source(source)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise EncoderNotFoundError(
            f"checkpoint {folder}: no config.json; wanted a folder that transformers' or "
            f"LongVQ's save_pretrained wrote{_meant(folder)}",
            source=folder,
        )
    config = _json(config_file, dict)
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise ConfigError(
            f"checkpoint {folder}: model_type is {model_type!r}, wanted one of "
            f"{', '.join(sorted(FAMILIES))}",
            source=folder,
        )
    if (folder / "adapter_config.json").exists():
        raise ConfigError(
            f"checkpoint {folder}: holds an adapter beside the weights; merge it into them and "
            "save the result",
            source=folder,
        )
    checkpoint = Checkpoint(folder, FAMILIES[model_type], config, _weight_files(folder))
    if not checkpoint.tokenizer_file.is_file():
        writer = '"AutoTokenizer.from_pretrained(source).save_pretrained(folder)"'
        if checkpoint.family.is_document_wide:
            writer = '"save_pretrained(folder, tokenizer)" of the model'
        raise ConfigError(
            f"checkpoint {folder}: no tokenizer.json; write one with {writer}", source=folder
        )
    return checkpoint


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that transformers would load: the single one, else the index's shards."""
    if (folder / _SINGLE_FILE).is_file():
        return (folder / _SINGLE_FILE,)
    if (folder / _INDEX_FILE).is_file():
        names = sorted(set(_json(folder / _INDEX_FILE, dict).get("weight_map", {}).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CorruptionError(
                f"checkpoint {folder}: {len(missing)} of {len(names)} weight files of "
                f"{_INDEX_FILE} are missing, the first is {missing[0]}; download it again",
                source=folder,
            )
        return tuple(folder / name for name in names)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLE_SUFFIXES)
    got = f"only {', '.join(pickles)}" if pickles else "no weights"
    raise ConfigError(
        f"checkpoint {folder}: got {got}, wanted {_SINGLE_FILE}: safetensors only, since pickles "
        'run code; convert with "AutoModel.from_pretrained(source).save_pretrained(folder)" where '
        "you trust the source",
        source=folder,
    )


def _pooling_mode(path: Path) -> str:
    """Read the mode from either layout of sentence-transformers: one name, or one claim a mode."""
    config = _json(path, dict)
    claims = [
        key for key, value in config.items() if key.startswith("pooling_mode_") and value is True
    ]
    stated = config.get("pooling_mode", " and ".join(claims))
    for mode, claim in (("mean", "pooling_mode_mean_tokens"), ("cls", "pooling_mode_cls_token")):
        if stated in (mode, claim):
            return mode
    raise ConfigError(f"{path}: pooling is {stated!r}, wanted 'mean' or 'cls'", source=path)


def _json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        value = None
    if not isinstance(value, kind):
        raise CorruptionError(
            f"{path}: got no JSON {kind.__name__}, wanted one; download the checkpoint again",
            object=path,
        )
    return value


def _sha256(path: Path) -> str:
    try:
        status = path.stat()
        return _sha256_of(path.resolve(), status.st_size, status.st_mtime_ns)
    except OSError as err:
        raise StorageError(f"{path}: cannot be read: {err.strerror}", object=path) from err


# Weights are gigabytes: hashed once a process. Size and time notice a file that was replaced.
@lru_cache(maxsize=256)
def _sha256_of(path: Path, _num_bytes: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _meant(folder: Path) -> str:
    """Name the model in a folder of a training run."""
    for name in ("encoder", "model"):
        if (folder / name / "config.json").is_file():
            return f"; did you mean {folder / name}?"
    return ""
