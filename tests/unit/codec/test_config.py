"""`config.json` of a codec."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from memstore.codec.config import CodecConfig, PredictorShape
from memstore.errors import CorruptionError, FormatVersionError

CONFIG = CodecConfig(
    dim=12,
    num_subspaces=3,
    codebook_size=256,
    dtype="bfloat16",
    predictor=None,
    rotation_block=0,
    tensor_bytes=100,
    tensor_sha256="0" * 64,
)


STAGED = dataclasses.replace(CONFIG, predictor=PredictorShape(70_000, 128, 8), rotation_block=4)


def changed(**values: Any) -> bytes:
    """Return the configuration with some fields set, or left out if None."""
    fields = {**json.loads(CONFIG.to_bytes()), **values}
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def test_a_configuration_comes_back() -> None:
    """Round trip, with stages and without."""
    assert CodecConfig.from_bytes(CONFIG.to_bytes(), where="x") == CONFIG
    assert CodecConfig.from_bytes(STAGED.to_bytes(), where="x") == STAGED


def test_stages_stand_in_the_order_of_encoding() -> None:
    """The predictor's tables are in the basis of the rotation, but it is fitted first."""
    values = json.loads(STAGED.to_bytes())
    assert [stage["kind"] for stage in values["stages"]] == ["token_predictor", "rotation"]
    assert values["record"] == {"code_bits": 8, "token_id_words": 2, "norm_words": 0}


@pytest.mark.parametrize(
    "stages",
    [
        [{"kind": "rotation", "block": 5}],
        [{"kind": "rotation", "block": 0}],
        [{"kind": "rotation", "block": True}],
        [
            {
                "kind": "token_predictor",
                "vocabulary_size": 0,
                "num_places": 1,
                "context_width": 0,
            }
        ],
        [
            {
                "kind": "token_predictor",
                "vocabulary_size": 9,
                "num_places": 1,
                "context_width": -1,
            }
        ],
        [3],
        {"kind": "rotation"},
    ],
)
def test_stages_that_cannot_be_are_damage(stages: Any) -> None:
    """Shapes are bounded before anything is allocated or read by them."""
    with pytest.raises(CorruptionError):
        CodecConfig.from_bytes(changed(stages=stages), where="x")


@pytest.mark.parametrize(
    "content",
    [
        changed(format_version=2),
        changed(kind="residual"),
        changed(stages=[{"kind": "norm"}]),
        changed(stages=[{"kind": "rotation", "block": 4, "order": "later"}]),
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
