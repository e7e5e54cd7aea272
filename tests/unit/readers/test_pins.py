"""What a reader was trained on is compared with what a source holds, field by field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from memstore.errors import CodecMismatchError, EncoderMismatchError, IncompatibleError
from memstore.models.lumen_config import LumenConfig
from memstore.readers.pins import check_pins

CONFIG = LumenConfig({"d_model": 16, "num_layers": 4}, 2, encoder_id="a" * 64, codec_id="b" * 64)
SAME: dict[str, Any] = {
    "collection": "wiki",
    "encoder_id": CONFIG.encoder_id,
    "codec_id": CONFIG.codec_id,
    "memory_dims": {16},
}


def test_what_is_the_same_is_taken() -> None:
    """Equal ids and width, or a collection in which nothing was found."""
    check_pins(CONFIG, **SAME)
    check_pins(CONFIG, **{**SAME, "memory_dims": set()})


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        ({"encoder_id": "f" * 64}, EncoderMismatchError, "encoder is ffffffffffffffff…, wanted aa"),
        ({"encoder_id": ""}, EncoderMismatchError, "encoder is none, wanted aaaa"),
        ({"codec_id": "f" * 64}, CodecMismatchError, "codec is ffffffffffffffff…, wanted bbbb"),
        ({"memory_dims": {32}}, EncoderMismatchError, "memories are 32 wide, wanted 16"),
    ],
)
def test_what_differs_is_said(
    change: dict[str, object], error: type[IncompatibleError], what: str
) -> None:
    """The error names the collection, what it has, what is wanted, and what to do."""
    with pytest.raises(error, match=what) as failure:
        check_pins(CONFIG, **{**SAME, **change})
    assert "collection 'wiki'" in str(failure.value)
    assert "name a collection" in str(failure.value)


def test_all_that_differs_is_said_at_once() -> None:
    """With where the encoder came from, and both ids in full for a machine."""
    with pytest.raises(EncoderMismatchError) as failure:
        check_pins(
            CONFIG,
            collection="wiki",
            encoder_id="f" * 64,
            codec_id="d" * 64,
            memory_dims={32},
            encoder_source="t5-base",
        )
    message = str(failure.value)
    assert "(t5-base)" in message
    assert all(word in message for word in ("encoder", "codec", "wide"))
    assert failure.value.details["encoder_id"] == "f" * 64
    assert failure.value.details["wanted_codec_id"] == CONFIG.codec_id


def test_what_is_not_pinned_is_not_compared() -> None:
    """A model without pins reads any memories of its width."""
    loose = replace(CONFIG, encoder_id="", codec_id="")
    check_pins(loose, **{**SAME, "encoder_id": "", "codec_id": "f" * 64})
    with pytest.raises(EncoderMismatchError, match="32 wide"):
        check_pins(loose, **{**SAME, "memory_dims": {32}})
