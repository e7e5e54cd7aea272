"""Which runner `--ray` names."""

from __future__ import annotations

import pytest

from encoder_jobs.job import make_options
from encoder_jobs.runners import LocalRunner, check_runner, make_runner
from memstore.encoders import EncoderOptions
from memstore.errors import ConfigError


def test_none_is_this_process() -> None:
    """It needs no Ray."""
    check_runner("none")

    assert isinstance(make_runner("none"), LocalRunner)


def test_an_empty_address_is_refused() -> None:
    """The message lists what is accepted."""
    with pytest.raises(ConfigError, match="'none', 'local' or the address"):
        check_runner("")


def test_flat_options_find_their_places() -> None:
    """Those of the encoder and those of the job, as on the command line."""
    options = make_options(
        encoder="folder", live_fraction="1/2", window_tokens=9, mode="upsert", id_field="key"
    )

    assert options.encoder == EncoderOptions(source="folder", live_fraction="1/2", window_tokens=9)
    assert (options.mode, options.id_field, options.codec) == ("upsert", "key", "auto")


def test_an_unknown_option_is_refused() -> None:
    """As any function refuses a keyword that it does not have."""
    with pytest.raises(TypeError, match="windows"):
        make_options(windows=9)
