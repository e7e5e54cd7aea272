"""Typed errors as google.rpc.Status."""

from __future__ import annotations

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from memstore.client.failures import from_status, retry_after_s, to_status
from memstore.errors import (
    CorruptionError,
    InternalError,
    MemstoreError,
    OverloadedError,
    UnavailableError,
    error_classes,
)

CLASSES = [cls for cls in error_classes() if cls is not MemstoreError]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_comes_back_with_class_message_and_details(cls: type[MemstoreError]):
    """Even where a fact has the name of an argument."""
    error = cls("what, where, fix")
    error.details.update({"message": "a", "self": "b", "object": "c"})
    back = from_status(to_status(error))
    assert type(back) is cls
    assert back.message == error.message
    assert back.details == error.details


def test_a_status_is_readable_by_any_client():
    """Code, reason, domain and retry delay are where google.rpc says."""
    status = status_pb2.Status.FromString(to_status(OverloadedError("busy", retry_after_s=2.5)))
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("OVERLOADED", "memstore")
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2500


def test_only_retryable_errors_say_when_to_come_back():
    """Corruption is never retried."""
    assert retry_after_s(CorruptionError("x")) is None
    assert retry_after_s(UnavailableError("x")) == 1.0
    assert retry_after_s(OverloadedError("x", retry_after_s=3)) == 3.0


def test_a_long_error_still_fits_into_trailing_metadata():
    """Trailers over 8 KiB are refused by gRPC; base64 adds a third."""
    error = InternalError("ü" * 100_000, **{f"fact{i}": "ü" * 10_000 for i in range(100)})
    data = to_status(error)
    assert len(data) < 6_000
    assert isinstance(from_status(data), InternalError)


def test_the_errors_of_other_programs_are_left_alone():
    """Another domain, no details, or bytes that are no status."""
    other = status_pb2.Status(code=3, message="x")
    assert from_status(other.SerializeToString()) is None
    other.details.add().Pack(error_details_pb2.ErrorInfo(reason="CONFIG", domain="other"))
    assert from_status(other.SerializeToString()) is None
    assert from_status(b"\xff\xff\xff") is None


def test_a_code_of_a_newer_server_is_an_internal_error():
    """What this version does not know still arrives with its message."""
    status = status_pb2.Status(code=13, message="new trouble")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="NEW", domain="memstore"))
    back = from_status(status.SerializeToString())
    assert type(back) is InternalError
    assert back.message == "new trouble"
