"""Errors at the server's edge: `MemstoreError` to gRPC status and to problem+json (RFC 9457).

Which code an error has is said by its class in `memstore.errors`. An error of any other class is a
fault of ours: it is logged with its traceback and leaves the server as an `InternalError` that says
nothing but where to look.
"""

from __future__ import annotations

import logging
import math
import uuid
from typing import Any

import grpc

from memstore.client.failures import DETAILS_KEY, retry_after_s, to_status
from memstore.errors import InternalError, MemstoreError

PROBLEM_JSON = "application/problem+json"

_log = logging.getLogger(__name__)
_LOGGED = {500, 507}  # corruption, faults of ours, a full disk: somebody must look
_GRPC_MESSAGE_CHARS = 200  # percent-encoded in a header; the whole message travels in the details


def typed(error: Exception) -> MemstoreError:
    """Return the error to show to a caller."""
    if isinstance(error, MemstoreError):
        if error.http_status in _LOGGED:
            _log.error("%s: %s", error.code, error)
        return error
    incident = uuid.uuid4().hex
    _log.error("incident %s", incident, exc_info=error)
    return InternalError(
        f"a fault of the server; report incident {incident}, which its log explains",
        incident=incident,
    )


def grpc_failure(
    error: MemstoreError,
) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Return status code, short message and trailing metadata of an error."""
    metadata = ((DETAILS_KEY, to_status(error)),)
    return grpc.StatusCode[error.grpc_status], error.message[:_GRPC_MESSAGE_CHARS], metadata


def problem(error: MemstoreError, status: int | None = None) -> dict[str, Any]:
    """Return an error as a problem+json object; `status` differs for HTTP's own errors alone."""
    return {
        "type": "about:blank",
        "title": error.code.value.replace("_", " ").capitalize(),
        "status": status or error.http_status,
        "detail": error.message,
        "code": error.code.value,
        "details": error.details,
    }


def problem_headers(error: MemstoreError) -> dict[str, str]:
    """Return the headers that belong to an error: when to retry, how to authenticate."""
    headers = {}
    pause_s = retry_after_s(error)
    if pause_s is not None:
        headers["Retry-After"] = str(math.ceil(pause_s))  # HTTP counts whole seconds
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
