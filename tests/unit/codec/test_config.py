"""`config.json` of a codec."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memstore.codec.config import CodecConfig
from memstore.errors import CorruptionError, FormatVersionError

CONFIG = CodecConfig(
    dim=12,
    num_subspaces=3,
    codebook_size=256,
    dtype="bfloat16",
    tensor_bytes=100,
    tensor_sha256="0" * 64,
)


def changed(**values: Any) -> bytes:
    """Return the configuration with some fields set, or left out if None."""
    fields = {**json.loads(CONFIG.to_bytes()), **values}
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def test_a_configuration_comes_back() -> None:
    """Round trip."""
    assert CodecConfig.from_bytes(CONFIG.to_bytes(), where="x") == CONFIG


@pytest.mark.parametrize(
    "content",
    [
        changed(format_version=2),
        changed(kind="residual"),
        changed(stages=[{"kind": "rotation"}]),
        changed(record={"code_bits": 8, "token_id_words": 1, "norm_words": 0}),
        changed(record={"code_bits": 8, "token_id_words": 0, "norm_words": 1}),
        changed(record={"code_bits": 12, "token_id_words": 0, "norm_words": 0}),
        changed(dtype="float8"),
        changed(neighbours=2),
        changed(tensors={**json.loads(CONFIG.to_bytes())["tensors"], "rotation.safetensors": {}}),
    ],
)
def test_what_a_later_version_may_write_asks_for_an_upgrade(content: bytes) -> None:
    """Every stage, record word or field that is not known here is refused, never passed over."""
    with pytest.raises(FormatVersionError, match="written by a newer memstore"):
        CodecConfig.from_bytes(content, where="x")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[1]",
        b"{}",
        changed(format_version="1"),
        changed(dim=None),
        changed(dim="12"),
        changed(dim=-12),
        changed(dim=13),
        changed(dim=True),
        changed(codebook_size=1),
        changed(codebook_size=65_537),
        changed(num_subspaces=0),
        changed(tensors=[]),
        changed(tensors={}),
        changed(tensors={"codec.safetensors": {"num_bytes": 100}}),
    ],
)
def test_a_damaged_configuration_is_refused_by_name(content: bytes) -> None:
    """What no version writes is damage."""
    with pytest.raises(CorruptionError, match=r"wiki: config\.json is damaged"):
        CodecConfig.from_bytes(content, where="wiki")
