"""The server's settings: defaults < TOML file < `MEMSTORE_*` environment < command-line flags.

Read once, in the composition root.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from memstore.cores import num_cores
from memstore.errors import ConfigError


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port`, `[ipv6]:port` included, into host and port.

    Raises:
        ValueError: if the text is no address.
    """
    host, separator, port = address.rpartition(":")
    if not (separator and host and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError(f"got {address!r}, wanted host:port, such as 127.0.0.1:7777")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(address: str) -> bool:
    """Say whether only this machine can reach an address."""
    host, _ = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_address(address: str) -> str:
    split_address(address)
    return address


Address = Annotated[str, AfterValidator(_check_address)]


class Settings(BaseSettings):
    """What an operator may decide.

    Attributes:
        store: folder of the store.
        sessions: folder of the sessions; unset: the server keeps none.
        session_model: folder of the MELODI model that reads and writes them.
        session_codec: folder of the codec that their queues are kept in; unset: none.
        grpc: `host:port` of the gRPC face; port 0 takes a free one.
        http: `host:port` of the HTTP face; port 0 takes a free one.
        token: bearer token that every caller must show; unset: none.
        token_file: file that holds the token, read once at start.
        insecure: allow an address beyond this machine without a token.
        workers: threads for search, checksums and decoding.
        max_in_flight: requests served at once; one more is told to come back later.
        max_write_bytes: bytes of one write, held in memory until it is committed.
        poll_interval_s: seconds between looks for new snapshots.
        drain_s: seconds between the word that the server is leaving and its leaving, so that load
            balancers hear it.
        grace_s: seconds that requests in flight get to finish.
    """

    model_config = SettingsConfigDict(env_prefix="MEMSTORE_", frozen=True, extra="forbid")

    store: str
    sessions: str | None = None
    session_model: Path | None = None
    session_codec: Path | None = None
    grpc: Address = "127.0.0.1:7777"
    http: Address = "127.0.0.1:7778"
    token: SecretStr | None = None
    token_file: Path | None = None
    insecure: bool = False
    workers: int = Field(default_factory=num_cores, ge=1, le=1024)
    max_in_flight: int = Field(64, ge=1)
    max_write_bytes: int = Field(256 << 20, ge=1 << 20)
    poll_interval_s: float = Field(2.0, gt=0)
    drain_s: float = Field(1.0, ge=0)
    grace_s: float = Field(25.0, ge=0)

    def bearer_token(self) -> str | None:
        """Return the token from where it was given.

        Raises:
            ConfigError: if it is given twice, empty or unreadable, or if there is none although
                the server can be reached from other machines.
        """
        if self.token is not None and self.token_file is not None:
            raise ConfigError("token and token_file are both set; leave one of them out")
        token = None if self.token is None else self.token.get_secret_value()
        if self.token_file is not None:
            try:
                token = self.token_file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as err:
                reason = err.strerror if isinstance(err, OSError) else "it is not ASCII"
                raise ConfigError(f"token_file {self.token_file}: {reason}") from err
        if token == "":
            raise ConfigError("the token is empty; leave it out or give one")
        exposed = [address for address in (self.grpc, self.http) if not is_loopback(address)]
        if token is None and exposed and not self.insecure:
            raise ConfigError(
                f"{' and '.join(exposed)}: other machines can reach this address and no token is "
                "set; set MEMSTORE_TOKEN or --token-file, bind to 127.0.0.1, or pass --insecure"
            )
        return token


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Read the settings from all their sources.

    Args:
        config: TOML file whose keys are the fields of `Settings`.
        flags: values of the command line; `None` is a flag that was not given.

    Raises:
        ConfigError: if a value is wrong or a key unknown; it names them all.
    """
    if config is not None and not config.is_file():
        raise ConfigError(f"settings file {config}: no such file")

    class _Sourced(Settings):
        model_config = SettingsConfigDict(toml_file=config)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    try:
        return _Sourced(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as err:
        # The inputs stay out of the message: one of them may be the token.
        faults = [
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in err.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise ConfigError("settings: " + "; ".join(faults)) from None
    except ValueError as err:  # tomllib's
        raise ConfigError(f"settings file {config}: {err}") from err
