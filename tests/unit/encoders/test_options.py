"""Options are refused when they are made, and survive a trip through JSON."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest

from memstore.encoders import EncoderOptions
from memstore.errors import ConfigError


def test_options_survive_json() -> None:
    """What goes into a job spec comes back equal."""
    options = EncoderOptions(source="x/y", live_fraction="1/4", window_tokens=64, retriever="z")

    assert EncoderOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


def test_live_fraction_is_exact() -> None:
    """A third is a third, not 0.333."""
    assert EncoderOptions(live_fraction="1/3").live_share == Fraction(1, 3)
    assert EncoderOptions(live_fraction="0.125").live_share == Fraction(1, 8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", ""),
        ("live_fraction", "third"),
        ("live_fraction", "1/0"),
        ("live_fraction", "4/3"),
        ("live_fraction", "-1/3"),
        ("live_fraction", "1e999999999"),
        ("live_fraction", 0.5),
        ("window_tokens", 0),
        ("window_tokens", True),
        ("window_tokens", "128"),
        ("stride_tokens", -1),
        ("stride_tokens", 129),
        ("template", "{body}"),
        ("retriever", None),
    ],
)
def test_bad_value_is_refused_by_name(name: str, value: Any) -> None:
    """The error names the option and shows what was got."""
    with pytest.raises(ConfigError, match=f"encoder option {name}: got .*wanted"):
        EncoderOptions(**{name: value})


def test_unknown_option_is_refused() -> None:
    """A spec of a newer version does not lose an option silently."""
    with pytest.raises(ConfigError, match="unknown colour"):
        EncoderOptions.from_dict({"colour": "red"})
