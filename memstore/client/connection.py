"""What both clients need to call a server: channel options, the credential, deadlines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from memstore.client.messages import MAX_MESSAGE_BYTES
from memstore.errors import ConfigError

DEFAULT_TIMEOUT_S = 30.0

LONG_TIMEOUT_S = 600.0
"""For calls that move or train a codec, or that commit: writes, deletes, changes to sessions."""

_READS = {
    "memstore.v1.MemoryService": (
        "Search",
        "Query",
        "Fetch",
        "GetCodec",
        "ListCollections",
        "GetCollection",
        "ListVersions",
    ),
    "memstore.v1.SessionService": (
        "GetSession",
        "ListSessions",
        "ReadSession",
        "SearchSession",
    ),
}
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            # Reads are safe to repeat; a write whose answer was lost is the caller's to judge.
            "name": [
                {"service": service, "method": method}
                for service, methods in _READS.items()
                for method in methods
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}


def channel_options() -> list[tuple[str, Any]]:
    """Return gRPC's channel options: message limits, keepalive, retries."""
    return [
        ("grpc.max_receive_message_length", 2 * MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and for how long.

    Attributes:
        token: bearer token; `None` for a server without one.
        timeout_s: deadline of a read in seconds.
    """

    token: str | None
    timeout_s: float

    def __post_init__(self) -> None:
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ConfigError("token: wanted printable ASCII; is there a line break at its end?")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s: got {self.timeout_s}, wanted more than 0")

    def read(self) -> dict[str, Any]:
        """Return the keyword arguments of a call that reads."""
        return {"timeout": self.timeout_s, "metadata": self._metadata()}

    def long(self) -> dict[str, Any]:
        """Return the keyword arguments of a call that may take long."""
        return {"timeout": max(self.timeout_s, LONG_TIMEOUT_S), "metadata": self._metadata()}

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)
