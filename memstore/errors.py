"""Every error that memstore raises on purpose, grouped by what the caller should do about it.

```
MemstoreError
├── InvalidInputError (ValueError)      mend the request
│   ├── ShapeError                      an array's shape, dtype or values
│   │   └── NotFiniteError              what a model computes: NaN or infinity
│   ├── ConfigError                     an option, setting, name or filter
│   └── DuplicateIdError                the same id twice in one input
├── NotFoundError (LookupError)         ask for something else
│   ├── PassageNotFoundError
│   ├── CollectionNotFoundError
│   ├── SnapshotNotFoundError
│   ├── CodecNotFoundError
│   ├── EncoderNotFoundError
│   ├── JobNotFoundError
│   └── SessionNotFoundError
├── AlreadyExistsError                  it is there already; upsert or replace
├── CommitConflictError                 reload, then try again
├── CommitUnknownError                  check before trying again
├── IncompatibleError                   use the encoder, model or codec that is pinned
│   ├── EncoderMismatchError
│   ├── CodecMismatchError
│   └── ModelMismatchError
├── UnauthenticatedError (PermissionError)
├── PermissionDeniedError (PermissionError)
├── StorageFullError (OSError)          free space first
├── FormatVersionError                  written by a newer memstore: upgrade
├── CorruptionError                     never retry; restore the object that it names
├── PartialError                        the work is done, but some records were refused
├── TrainingDivergedError               train anew with a lower rate
├── StorageError (OSError)              try again with backoff
├── OverloadedError                     try again after `retry_after_s`
├── UnavailableError (ConnectionError)  the server is not there: try again with backoff
├── AddressInUseError (OSError)         stop the other program, or choose another port
├── DeadlineError (TimeoutError)        the caller decides
├── MissingDependencyError (ImportError) install the extra that it names
└── InternalError                       a fault of ours: report it
```

Each class carries its one row of the status table (gRPC code, HTTP status, CLI exit code,
retryable), so that the three faces of the store cannot disagree. `ErrorCode` is append-only.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """The stable name of an error on the wire (`ErrorInfo.reason`, problem+json `code`)."""

    INTERNAL = "INTERNAL"
    INVALID_INPUT = "INVALID_INPUT"
    SHAPE = "SHAPE"
    CONFIG = "CONFIG"
    DUPLICATE_ID = "DUPLICATE_ID"
    NOT_FOUND = "NOT_FOUND"
    PASSAGE_NOT_FOUND = "PASSAGE_NOT_FOUND"
    COLLECTION_NOT_FOUND = "COLLECTION_NOT_FOUND"
    SNAPSHOT_NOT_FOUND = "SNAPSHOT_NOT_FOUND"
    CODEC_NOT_FOUND = "CODEC_NOT_FOUND"
    ENCODER_NOT_FOUND = "ENCODER_NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    COMMIT_CONFLICT = "COMMIT_CONFLICT"
    COMMIT_UNKNOWN = "COMMIT_UNKNOWN"
    INCOMPATIBLE = "INCOMPATIBLE"
    ENCODER_MISMATCH = "ENCODER_MISMATCH"
    CODEC_MISMATCH = "CODEC_MISMATCH"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    STORAGE_FULL = "STORAGE_FULL"
    FORMAT_VERSION = "FORMAT_VERSION"
    CORRUPTION = "CORRUPTION"
    PARTIAL = "PARTIAL"
    STORAGE = "STORAGE"
    OVERLOADED = "OVERLOADED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE = "DEADLINE"
    MISSING_DEPENDENCY = "MISSING_DEPENDENCY"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    ADDRESS_IN_USE = "ADDRESS_IN_USE"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    MODEL_MISMATCH = "MODEL_MISMATCH"
    TRAINING_DIVERGED = "TRAINING_DIVERGED"
    NOT_FINITE = "NOT_FINITE"


class MemstoreError(Exception):
    """Root of the tree.

    Args:
        message: what, where, got, wanted, and what to do; never a secret nor the text of a passage.
        details: the same facts as strings for a machine (`{"object": "shards/ab.arrow"}`).
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    grpc_status: ClassVar[str] = "INTERNAL"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, str] = {name: str(value) for name, value in details.items()}

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (Ray): rebuild from message and details.
        return _rebuild, (type(self), self.message, self.details)


def _rebuild(cls: type[MemstoreError], message: str, details: dict[str, str]) -> MemstoreError:
    return cls(message, **details)


class InvalidInputError(MemstoreError, ValueError):
    """The request itself is wrong; the same request will never succeed."""

    code = ErrorCode.INVALID_INPUT
    grpc_status = "INVALID_ARGUMENT"
    http_status = 400
    exit_code = 2


class ShapeError(InvalidInputError):
    """An array has the wrong shape, dtype, order, or values that are not finite."""

    code = ErrorCode.SHAPE


class NotFiniteError(ShapeError):
    """A model computed NaN or infinity; in training it has learnt nothing from that."""

    code = ErrorCode.NOT_FINITE


class ConfigError(InvalidInputError):
    """An option, a setting, a name, a filter or a file's layout is not what is accepted."""

    code = ErrorCode.CONFIG


class DuplicateIdError(InvalidInputError):
    """One input holds the same id more than once; the message lists the first ten."""

    code = ErrorCode.DUPLICATE_ID


class NotFoundError(MemstoreError, LookupError):
    """What was asked for is not there."""

    code = ErrorCode.NOT_FOUND
    grpc_status = "NOT_FOUND"
    http_status = 404
    exit_code = 3


class PassageNotFoundError(NotFoundError):
    """No live passage has this id in this snapshot."""

    code = ErrorCode.PASSAGE_NOT_FOUND


class CollectionNotFoundError(NotFoundError):
    """The store has no collection of this name."""

    code = ErrorCode.COLLECTION_NOT_FOUND


class SnapshotNotFoundError(NotFoundError):
    """The collection has no such version."""

    code = ErrorCode.SNAPSHOT_NOT_FOUND


class CodecNotFoundError(NotFoundError):
    """No codec of this id or at this path."""

    code = ErrorCode.CODEC_NOT_FOUND


class EncoderNotFoundError(NotFoundError):
    """No encoder of this id or at this path."""

    code = ErrorCode.ENCODER_NOT_FOUND


class JobNotFoundError(NotFoundError):
    """The collection has no such encoding job."""

    code = ErrorCode.JOB_NOT_FOUND


class SessionNotFoundError(NotFoundError):
    """No session has this id, or it was removed, or its time has run out."""

    code = ErrorCode.SESSION_NOT_FOUND


class AlreadyExistsError(MemstoreError):
    """An id or object exists already and the operation does not replace it."""

    code = ErrorCode.ALREADY_EXISTS
    grpc_status = "ALREADY_EXISTS"
    http_status = 409
    exit_code = 4


class CommitConflictError(MemstoreError):
    """Another writer committed first, and the two changes cannot be merged."""

    code = ErrorCode.COMMIT_CONFLICT
    grpc_status = "ABORTED"
    http_status = 409
    exit_code = 4
    retryable = True


class CommitUnknownError(MemstoreError):
    """The answer to a commit was lost and could not be read back; nothing was deleted."""

    code = ErrorCode.COMMIT_UNKNOWN
    grpc_status = "UNKNOWN"
    http_status = 500
    exit_code = 1


class IncompatibleError(MemstoreError):
    """The collection is of another make than the caller."""

    code = ErrorCode.INCOMPATIBLE
    grpc_status = "FAILED_PRECONDITION"
    http_status = 409
    exit_code = 4


class EncoderMismatchError(IncompatibleError):
    """The encoder is not the one that the collection pins."""

    code = ErrorCode.ENCODER_MISMATCH


class CodecMismatchError(IncompatibleError):
    """The codec is not the one that the collection pins."""

    code = ErrorCode.CODEC_MISMATCH


class ModelMismatchError(IncompatibleError):
    """The model is not the one that made the session's memory."""

    code = ErrorCode.MODEL_MISMATCH


class UnauthenticatedError(MemstoreError, PermissionError):
    """No valid credential came with the request."""

    code = ErrorCode.UNAUTHENTICATED
    grpc_status = "UNAUTHENTICATED"
    http_status = 401


class PermissionDeniedError(MemstoreError, PermissionError):
    """The credential does not allow this."""

    code = ErrorCode.PERMISSION_DENIED
    grpc_status = "PERMISSION_DENIED"
    http_status = 403


class StorageFullError(MemstoreError, OSError):
    """No space or quota is left; nothing was committed."""

    code = ErrorCode.STORAGE_FULL
    grpc_status = "RESOURCE_EXHAUSTED"
    http_status = 507


class FormatVersionError(MemstoreError):
    """The object was written by a newer format than this code reads."""

    code = ErrorCode.FORMAT_VERSION
    grpc_status = "UNIMPLEMENTED"
    http_status = 501


class CorruptionError(MemstoreError):
    """Stored bytes are not the bytes that were written; nothing of them was returned."""

    code = ErrorCode.CORRUPTION
    grpc_status = "DATA_LOSS"


class PartialError(MemstoreError):
    """The job finished and was committed, but some records went to the dead-letter file."""

    code = ErrorCode.PARTIAL
    grpc_status = "FAILED_PRECONDITION"
    http_status = 409
    exit_code = 5


class TrainingDivergedError(MemstoreError):
    """A step's loss or gradient was not finite; the last checkpoint before it is kept."""

    code = ErrorCode.TRAINING_DIVERGED
    grpc_status = "FAILED_PRECONDITION"
    http_status = 409


class StorageError(MemstoreError, OSError):
    """The disk or object store failed in a way that may pass."""

    code = ErrorCode.STORAGE
    grpc_status = "UNAVAILABLE"
    http_status = 503
    exit_code = 75
    retryable = True


class OverloadedError(MemstoreError):
    """The server sheds load; `details["retry_after_s"]` says when to come back."""

    code = ErrorCode.OVERLOADED
    grpc_status = "RESOURCE_EXHAUSTED"
    http_status = 429
    exit_code = 75
    retryable = True


class UnavailableError(MemstoreError, ConnectionError):
    """No server answered at this address."""

    code = ErrorCode.UNAVAILABLE
    grpc_status = "UNAVAILABLE"
    http_status = 503
    exit_code = 75
    retryable = True


class AddressInUseError(MemstoreError, OSError):
    """A server cannot listen where it was told to."""

    code = ErrorCode.ADDRESS_IN_USE
    grpc_status = "FAILED_PRECONDITION"


class DeadlineError(MemstoreError, TimeoutError):
    """The time that the caller allowed ran out."""

    code = ErrorCode.DEADLINE
    grpc_status = "DEADLINE_EXCEEDED"
    http_status = 504
    exit_code = 75


class MissingDependencyError(MemstoreError, ImportError):
    """A package of an extra is not installed; the message names the extra."""

    code = ErrorCode.MISSING_DEPENDENCY


class InternalError(MemstoreError):
    """A fault of memstore's own."""

    code = ErrorCode.INTERNAL


def error_classes() -> Iterator[type[MemstoreError]]:
    """Yield every class of the tree, the root first."""
    pending: list[type[MemstoreError]] = [MemstoreError]
    while pending:
        cls = pending.pop(0)
        yield cls
        pending.extend(cls.__subclasses__())


def error_class(code: str) -> type[MemstoreError]:
    """Return the class whose `code` is this one; `InternalError` for a code of a later version."""
    by_code = {cls.code.value: cls for cls in error_classes() if cls is not MemstoreError}
    return by_code.get(code, InternalError)
