"""The table of errors is total: every class has a gRPC code and a problem."""

from __future__ import annotations

import grpc
import pytest

from memstore.errors import InternalError, MemstoreError, error_classes
from server.status import grpc_failure, problem, problem_headers, typed

CLASSES = list(error_classes())


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_has_a_status_on_both_faces(cls: type[MemstoreError]):
    """The name is one of gRPC, the number one of HTTP."""
    error = cls("what happened", object="a")
    code, message, metadata = grpc_failure(error)
    assert isinstance(code, grpc.StatusCode)
    assert message == "what happened"
    assert [key for key, _ in metadata] == ["grpc-status-details-bin"]
    body = problem(error)
    assert 400 <= body["status"] < 600
    assert body["code"] == cls.code.value
    assert ("Retry-After" in problem_headers(error)) == cls.retryable


def test_an_untyped_error_leaves_as_an_incident(caplog: pytest.LogCaptureFixture):
    """Its text and traceback are in the log alone, under the number that the caller has."""
    error = typed(KeyError("secret"))
    assert type(error) is InternalError
    assert "secret" not in error.message
    assert error.details["incident"] in error.message
    assert error.details["incident"] in caplog.text
    assert "secret" in caplog.text
