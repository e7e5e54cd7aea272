"""Typed errors across gRPC: `google.rpc.Status` with `ErrorInfo` out, the same class back in.

Does not: decide which code an error has; every class of `memstore.errors` carries its own row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from memstore.errors import (
    DeadlineError,
    InternalError,
    MemstoreError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    error_class,
)

DOMAIN = "memstore"
DETAILS_KEY = "grpc-status-details-bin"
DEFAULT_RETRY_S = 1.0

# gRPC refuses more than 8 KiB of trailing metadata, and base64 adds a third: an error that is too
# long to travel would reach the caller as another error.
_MESSAGE_CHARS = 1000
_DETAIL_CHARS = 200
_NUM_DETAILS = 8


def retry_after_s(error: MemstoreError) -> float | None:
    """Return when to try again, in seconds; `None` where trying again does not help."""
    if not error.retryable:
        return None
    return float(error.details.get("retry_after_s", DEFAULT_RETRY_S))


def to_status(error: MemstoreError) -> bytes:
    """Serialize an error for the trailing metadata `grpc-status-details-bin`."""
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.grpc_status), message=error.message[:_MESSAGE_CHARS]
    )
    details = list(error.details.items())[:_NUM_DETAILS]
    info = error_details_pb2.ErrorInfo(
        reason=error.code.value,
        domain=DOMAIN,
        metadata={name: value[:_DETAIL_CHARS] for name, value in details},
    )
    status.details.add().Pack(info)
    pause_s = retry_after_s(error)
    if pause_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(pause_s * 1000))
        status.details.add().Pack(retry)
    data: bytes = status.SerializeToString()
    return data


def from_status(data: bytes) -> MemstoreError | None:
    """Rebuild the error that `to_status` wrote; `None` if another program wrote these bytes."""
    try:
        status = status_pb2.Status.FromString(data)
    except DecodeError:
        return None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            error = error_class(info.reason)(status.message)
            error.details.update(info.metadata)
            return error
    return None


_BY_STATUS: dict[grpc.StatusCode, type[MemstoreError]] = {
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
}
_FIX = {
    grpc.StatusCode.UNAVAILABLE: (
        'no memstore server answered there; start one with "memstore serve", or mend the address'
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: "the time allowed ran out; raise timeout_s or ask for less",
    grpc.StatusCode.UNIMPLEMENTED: "the server does not know this call; upgrade the older side",
}


def from_rpc_error(error: grpc.RpcError, address: str) -> MemstoreError:
    """Return the typed error of a failed call: the server's own, or one for what gRPC itself says.

    Args:
        error: as raised by a call of `grpc` or `grpc.aio`.
        address: of the server, for the message.
    """
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            known = from_status(value)
            if known is not None:
                return known
    status = error.code()
    fix = _FIX.get(status, "see the server's log")
    cls = _BY_STATUS.get(status, InternalError)
    return cls(
        f"server {address}: {status.name}: {error.details()}; {fix}",
        address=address,
        grpc_status=status.name,
    )


@contextmanager
def typed_errors(address: str) -> Iterator[None]:
    """Turn what gRPC raises inside the block into typed errors."""
    try:
        yield
    except grpc.RpcError as err:
        raise from_rpc_error(err, address) from err
