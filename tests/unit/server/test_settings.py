"""Where settings come from, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from memstore.errors import ConfigError
from server.settings import is_loopback, load_settings, split_address


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEMSTORE_STORE", "MEMSTORE_TOKEN", "MEMSTORE_WORKERS", "MEMSTORE_DRAIN_S"):
        monkeypatch.delenv(name, raising=False)


def test_flags_win_over_environment_over_file_over_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One order, as documented."""
    config = tmp_path / "server.toml"
    config.write_text('store = "file"\nworkers = 2\ndrain_s = 3.5\nmax_in_flight = 9\n')
    monkeypatch.setenv("MEMSTORE_WORKERS", "3")
    monkeypatch.setenv("MEMSTORE_DRAIN_S", "4.5")
    settings = load_settings(config, drain_s=5.5, grpc=None)
    assert settings.store == "file"
    assert settings.max_in_flight == 9
    assert settings.workers == 3
    assert settings.drain_s == 5.5
    assert settings.grpc == "127.0.0.1:7777"


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({}, "store: Field required"),
        ({"store": "s", "grpc": "7777"}, "grpc: .*wanted host:port"),
        ({"store": "s", "http": "localhost:99999"}, "http: .*wanted host:port"),
        ({"store": "s", "workers": 0}, "workers: "),
        ({"store": "s", "poll_interval_s": 0.0}, "poll_interval_s: "),
        ({"store": "s", "colour": "red"}, "colour: "),
    ],
)
def test_a_wrong_value_is_named_by_its_path(flags: dict[str, object], fault: str):
    """Missing, malformed and unknown settings are one kind of error."""
    with pytest.raises(ConfigError, match=fault):
        load_settings(**flags)


def test_a_broken_or_missing_settings_file_is_named(tmp_path: Path):
    """So is a key that no setting has."""
    config = tmp_path / "server.toml"
    with pytest.raises(ConfigError, match="no such file"):
        load_settings(config, store="s")
    config.write_text("store = ")
    with pytest.raises(ConfigError, match=r"server\.toml"):
        load_settings(config)
    config.write_text('store = "s"\nwrokers = 2\n')
    with pytest.raises(ConfigError, match="wrokers"):
        load_settings(config)


def test_a_token_never_shows(monkeypatch: pytest.MonkeyPatch):
    """Neither in the settings' text nor in an error about them."""
    monkeypatch.setenv("MEMSTORE_TOKEN", "mst_secret")
    settings = load_settings(store="s")
    assert settings.bearer_token() == "mst_secret"
    assert "mst_secret" not in repr(settings)
    with pytest.raises(ConfigError) as caught:
        load_settings(store="s", workers="many")
    assert "mst_secret" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n", "tökén"])
def test_an_unusable_token_is_refused(content: str, tmp_path: Path):
    """An empty token would let everybody in."""
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(ConfigError, match="token"):
        load_settings(store="s", token_file=file).bearer_token()
    with pytest.raises(ConfigError, match="token"):
        load_settings(store="s", token_file=tmp_path / "absent").bearer_token()
    with pytest.raises(ConfigError, match="empty"):
        load_settings(store="s", token="").bearer_token()
    with pytest.raises(ConfigError, match="both"):
        load_settings(store="s", token="a", token_file=file).bearer_token()


@pytest.mark.parametrize(
    ("address", "reaches_only_here"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.org:1", False),
    ],
)
def test_exposure_is_read_from_the_address(address: str, reaches_only_here: bool):
    """What is not certainly this machine alone counts as exposed."""
    assert is_loopback(address) is reaches_only_here
    settings = load_settings(store="s", grpc=address, http=address)
    if reaches_only_here:
        assert settings.bearer_token() is None
    else:
        with pytest.raises(ConfigError, match="--insecure"):
            settings.bearer_token()


def test_addresses_split_into_host_and_port():
    """Brackets belong to IPv6."""
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address("host:0") == ("host", 0)
