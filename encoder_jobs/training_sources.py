"""What a training run starts from: a path that workers find, and a digest to know it by."""

from __future__ import annotations

import hashlib
from pathlib import Path

from memstore.errors import NotFoundError, StorageError
from memstore.models.checkpoints import CONFIG_FILE, TOKENIZER_FILE


def absolute(source: str) -> str:
    """Return the absolute path of a folder, which a worker may look for from elsewhere; names and
    hub ids as they are.
    """
    folder = Path(source).expanduser()
    return str(folder.absolute()) if source and folder.is_dir() else source


def checkpoint_digest(folder: Path) -> str:
    """Return the digest of a model's weights, config and tokenizer, hex; what is missing is named
    by who loads it.

    Raises:
        StorageError: if a file cannot be read.
    """
    files = [*sorted(folder.glob("*.safetensors")), folder / CONFIG_FILE, folder / TOKENIZER_FILE]
    digests = [file_digest(file) for file in files if file.is_file()]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file, hex.

    Raises:
        NotFoundError: if there is none.
        StorageError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as err:
        raise NotFoundError(f"{path}: no such file", object=path) from err
    except OSError as err:
        raise StorageError(f"{path}: cannot be read: {err}", object=path) from err
