"""Writes docs/errors.md from the classes in memstore/errors.py: `python docs/generate_errors.py`.

A test compares the committed page with a new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from memstore.errors import MemstoreError

PAGE = Path(__file__).with_name("errors.md")

_HEAD = """# Errors

Generated from `memstore/errors.py` by `python docs/generate_errors.py`: change the classes, not
this page.

Every error that memstore raises on purpose is a `MemstoreError` with a `code` for programs, a
`message` that says what, where, got, wanted and what to do, and `details`, the same facts as
strings. All faces show the same error:

- library: the class; each is also the built-in error that fits (`ValueError`, `OSError`, …);
- gRPC: `google.rpc.Status` with an `ErrorInfo` whose `reason` is the code, from which the client
  raises the class again;
- HTTP: `application/problem+json` with `code`;
- command line: the message on stderr and the exit code. 2 is also wrong usage, 130 an interrupt.

*Retry* says whether the same request may succeed later with nothing changed. A code is never
renamed nor given another meaning; a client that meets an unknown code raises `InternalError`.

| class | code | gRPC | HTTP | exit | retry | what it means | what to do |
|---|---|---|---|---|---|---|---|
"""

# By class; a class that is not here has its parent's.
_ADVICE = {
    "InvalidInputError": "Mend the request; the message says what was wanted.",
    "NotFiniteError": "In training, lower the rate; of a finished model, look at its weights.",
    "DuplicateIdError": "Give each document one id; the message lists the first ten.",
    "NotFoundError": "Look up what there is, and ask for that.",
    "PassageNotFoundError": "Search for it; it may have been deleted or superseded.",
    "CollectionNotFoundError": "See `memstore collection ls`.",
    "SnapshotNotFoundError": "See `memstore collection versions`; gc drops old ones.",
    "CodecNotFoundError": "Name a codec of the collection, or the folder of one.",
    "EncoderNotFoundError": "Name a checkpoint folder, or put the model where it is looked for.",
    "JobNotFoundError": "See `memstore job ls`.",
    "SessionNotFoundError": "See `memstore session ls`, or begin another with `session new`.",
    "AlreadyExistsError": "Use mode `upsert` or `replace`, or leave out what is there.",
    "CommitConflictError": "Read the newest version, then try again.",
    "CommitUnknownError": "Look whether the version is there before trying again.",
    "IncompatibleError": "Use the encoder and codec that the collection pins, or a new collection.",
    "ModelMismatchError": "Open the sessions with the model that began them, or begin others.",
    "UnauthenticatedError": "Send the server's token.",
    "PermissionDeniedError": "Ask the operator for a credential that may.",
    "StorageFullError": "Free space or raise the quota, then run the same command again.",
    "FormatVersionError": "Upgrade memstore.",
    "CorruptionError": "Do not retry: restore the object that it names, then verify.",
    "PartialError": "Read the dead-letter file that it names, mend those records, encode them.",
    "TrainingDivergedError": "Train to another folder with a lower rate, or in float32.",
    "StorageError": "Try again, waiting longer each time; look at the disk or mount.",
    "OverloadedError": "Try again after `retry_after_s`.",
    "UnavailableError": "Check address and server; try again, waiting longer each time.",
    "DeadlineError": "Allow more time, or ask for less.",
    "MissingDependencyError": "Install the extra that it names.",
    "InternalError": "Report it, with the server's log: it is our fault.",
}


def page() -> str:
    """Return the page: a row for each class, children under their parents."""
    return _HEAD + "".join(map(_row, _below(MemstoreError)))


def _below(parent: type[MemstoreError]) -> Iterator[type[MemstoreError]]:
    for cls in parent.__subclasses__():
        yield cls
        yield from _below(cls)


def _row(cls: type[MemstoreError]) -> str:
    cells = (
        f"`{cls.__name__}`",
        f"`{cls.code}`",
        cls.grpc_status,
        str(cls.http_status),
        str(cls.exit_code),
        "yes" if cls.retryable else "no",
        " ".join((cls.__doc__ or "").split()),
        next(_ADVICE[each.__name__] for each in cls.__mro__ if each.__name__ in _ADVICE),
    )
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
