"""What the server counts, for Prometheus."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

import memstore
from memstore.errors import CorruptionError, MemstoreError, OverloadedError

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

OK = "OK"
CANCELLED = "CANCELLED"


class Call:
    """One request being served; `code` is how it ended."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.code = CANCELLED


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "memstore_rpc_requests",
            "Requests by method and outcome (OK, CANCELLED or an error code).",
            ["method", "code"],
            registry=self._registry,
        )
        self._duration = Histogram(
            "memstore_rpc_duration_seconds",
            "Time from a request to the end of its answer.",
            ["method"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._decode_tokens = Counter(
            "memstore_decode_tokens", "Tokens decoded for clients.", registry=self._registry
        )
        self._fetch_bytes = Counter(
            "memstore_fetch_bytes", "Bytes of memories sent.", registry=self._registry
        )
        self._shed = Counter(
            "memstore_shed", "Requests refused because of load.", registry=self._registry
        )
        self._corruption = Counter(
            "memstore_corruption_detected",
            "Requests that met stored bytes that are not what was written.",
            registry=self._registry,
        )
        info = Gauge(
            "memstore_build_info", "Always 1.", ["version", "python"], registry=self._registry
        )
        info.labels(memstore.__version__, platform.python_version()).set(1)

    @contextmanager
    def observe(self, method: str) -> Iterator[Call]:
        """Count and time one request; who serves it sets `code`."""
        call = Call(method)
        started = perf_counter()
        try:
            yield call
        finally:
            self._requests.labels(call.method, call.code).inc()
            self._duration.labels(call.method).observe(perf_counter() - started)

    def count_rows(self, num_rows: int, num_bytes: int, *, is_decoded: bool) -> None:
        """Count rows of memories that are sent, a row a token."""
        self._fetch_bytes.inc(num_bytes)
        if is_decoded:
            self._decode_tokens.inc(num_rows)

    def note(self, error: MemstoreError) -> None:
        """Count an error that has a counter of its own."""
        if isinstance(error, OverloadedError):
            self._shed.inc()
        if isinstance(error, CorruptionError):
            self._corruption.inc()

    def exposition(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self._registry)
