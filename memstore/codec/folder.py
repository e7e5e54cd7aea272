"""A codec as a folder of two files: read with checks, written with `config.json` last."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from memstore.codec.config import CONFIG_FILE, MAX_CONFIG_BYTES, TENSOR_FILE, CodecConfig
from memstore.errors import (
    AlreadyExistsError,
    CodecNotFoundError,
    CorruptionError,
    MemstoreError,
    StorageError,
    StorageFullError,
)


def read_config(folder: Path) -> bytes:
    """Return the bytes of a codec's `config.json`.

    Raises:
        CodecNotFoundError: if there is none.
        CorruptionError: if it is too long to be one.
        StorageError: if it cannot be read.
    """
    path = folder / CONFIG_FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise CodecNotFoundError(
            f"{folder}: no codec here: {CONFIG_FILE} is missing", object=path
        ) from err
    except OSError as err:
        raise StorageError(f"{path}: cannot be read: {err}", object=path) from err
    if len(content) > MAX_CONFIG_BYTES:
        raise CorruptionError(
            f"{path}: more than {MAX_CONFIG_BYTES} bytes; restore the codec", object=path
        )
    return content


def check_id(config: bytes, codec_id: str | None, *, where: str) -> None:
    """Refuse a configuration that is not that of `codec_id`, if one is given.

    Raises:
        CorruptionError: a codec is stored under its id, so another one in its place is damage like
            any other.
    """
    digest = hashlib.sha256(config).hexdigest()
    if codec_id is not None and digest != codec_id:
        raise CorruptionError(
            f"{where}: {CONFIG_FILE} has sha256 {digest}, wanted {codec_id}; restore the codec",
            object=f"{where}/{CONFIG_FILE}",
        )


def check_tensors(tensors: np.ndarray, config: CodecConfig, *, where: str) -> None:
    """Refuse tensors of another length or digest than the configuration's.

    Args:
        tensors: (num_bytes,) uint8, the bytes of `codec.safetensors`.
        config: of the same codec.
        where: what the codec is called in an error.

    Raises:
        CorruptionError: naming the file.
    """
    name = f"{where}/{TENSOR_FILE}"
    if len(tensors) != config.tensor_bytes:
        raise CorruptionError(
            f"{name}: got {len(tensors)} bytes, wanted {config.tensor_bytes}; restore the codec",
            object=name,
        )
    digest = hashlib.sha256(tensors.data).hexdigest()
    if digest != config.tensor_sha256:
        raise CorruptionError(
            f"{name}: has sha256 {digest}, wanted {config.tensor_sha256}; restore the codec",
            object=name,
        )


def write(folder: Path, contents: Mapping[str, bytes | memoryview]) -> None:
    """Write a codec's files, `config.json` last, each under a temporary name first.

    Raises:
        AlreadyExistsError: if the folder holds another codec.
        StorageFullError, StorageError: if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / CONFIG_FILE
        if config.exists() and config.read_bytes() != contents[CONFIG_FILE]:
            raise AlreadyExistsError(
                f"{folder}: holds another codec; save to another folder", object=folder
            )
        for name in sorted(contents, key=lambda name: name == CONFIG_FILE):
            _write_file(folder / name, contents[name])
        _sync_folder(folder)
    except OSError as err:
        raise _storage_error(folder, err) from err


def _write_file(path: Path, content: bytes | memoryview) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(
                descriptor, 0o644
            )  # mkstemp keeps others out; a codec is shared by a machine's users
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(folder: Path, err: OSError) -> MemstoreError:
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(
            f"{folder}: no space left to write the codec; free some and save again"
        )
    return StorageError(f"{folder}: the codec cannot be written: {err}", object=folder)
