"""The values of `memstore.types` as protobuf messages and back, for both ends of the wire.

Does not: know channels, calls or errors of gRPC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any, Protocol, TypeVar

from memstore.errors import InvalidInputError
from memstore.types import CollectionInfo, CommitResult, Hit, Metadata, MetadataValue, Passage
from memstore.v1 import memory_pb2 as pb

PAGE_BYTES = 1 << 20
"""Aim for the size of one message of a stream."""

MAX_MESSAGE_BYTES = (4 << 20) - 1024
"""A message that is larger is not sent: gRPC's default limit at the receiver is 4 MiB."""


class Message(Protocol):
    """What is needed of a protobuf message here."""

    def ByteSize(self) -> int:
        """Size on the wire."""
        ...


MessageT = TypeVar("MessageT", bound=Message)


def check_size(message: MessageT, *, what: str, fix: str) -> MessageT:
    """Return `message` if it may travel.

    Raises:
        InvalidInputError: if it is larger than `MAX_MESSAGE_BYTES`.
    """
    size = message.ByteSize()
    if size > MAX_MESSAGE_BYTES:
        raise InvalidInputError(
            f"{what}: {size:,} bytes in one message, at most {MAX_MESSAGE_BYTES:,}; {fix}",
            num_bytes=size,
            limit_bytes=MAX_MESSAGE_BYTES,
        )
    return message


def pages(messages: Iterable[MessageT]) -> Iterator[list[MessageT]]:
    """Group messages into pages of about `PAGE_BYTES`; at least one page, even of nothing.

    Raises:
        InvalidInputError: if a single message is too large to travel.
    """
    page: list[MessageT] = []
    page_bytes = 0
    for message in messages:
        check_size(message, what="a passage", fix="cut its text into shorter passages")
        size = message.ByteSize()
        if page and page_bytes + size > PAGE_BYTES:
            yield page
            page, page_bytes = [], 0
        page.append(message)
        page_bytes += size
    yield page


def value_to_proto(name: str, value: MetadataValue) -> pb.Value:
    """Spell one metadata value; null is a `Value` without a kind.

    Raises:
        InvalidInputError: if it is no str, int of 64 bits, float, bool or None.
    """
    try:
        if value is None:
            return pb.Value()
        if isinstance(value, bool):  # before int: a bool is one
            return pb.Value(bool_value=value)
        if isinstance(value, str):
            return pb.Value(string_value=value)
        if isinstance(value, float):
            return pb.Value(double_value=value)
        return pb.Value(int64_value=value)
    except (TypeError, ValueError) as err:
        raise InvalidInputError(
            f"metadata column {name!r}: got a {type(value).__name__}, "
            "wanted str, int of 64 bits, float, bool or None",
            column=name,
        ) from err


def value_from_proto(message: pb.Value) -> MetadataValue:
    """Return the value of a metadata column."""
    kind = message.WhichOneof("kind")
    return None if kind is None else getattr(message, kind)


def passage_to_proto(passage: Passage) -> pb.Passage:
    """Spell a passage, a hit's score left out."""
    return pb.Passage(
        document_id=passage.document_id,
        number=passage.number,
        title=passage.title,
        text=passage.text,
        start=passage.start,
        end=passage.end,
        num_tokens=passage.num_tokens,
        metadata={name: value_to_proto(name, value) for name, value in passage.metadata.items()},
    )


def _passage_fields(message: pb.Passage) -> dict[str, Any]:
    metadata: Metadata = {
        name: value_from_proto(message.metadata[name]) for name in sorted(message.metadata)
    }
    return {
        "document_id": message.document_id,
        "number": message.number,
        "title": message.title,
        "text": message.text,
        "start": message.start,
        "end": message.end,
        "num_tokens": message.num_tokens,
        "metadata": metadata,
    }


def passage_from_proto(message: pb.Passage) -> Passage:
    """Read a passage."""
    return Passage(**_passage_fields(message))


def hit_to_proto(hit: Hit) -> pb.Hit:
    """Spell a hit."""
    return pb.Hit(passage=passage_to_proto(hit), score=hit.score)


def hit_from_proto(message: pb.Hit) -> Hit:
    """Read a hit."""
    return Hit(**_passage_fields(message.passage), score=message.score)


def info_to_proto(info: CollectionInfo) -> pb.CollectionInfo:
    """Spell a collection's figures; the message has the fields of the dataclass by name."""
    values = {field.name: getattr(info, field.name) for field in fields(info)}
    values["metadata_columns"] = dict(info.metadata_columns)
    return pb.CollectionInfo(**values)


def info_from_proto(message: pb.CollectionInfo) -> CollectionInfo:
    """Read a collection's figures."""
    values = {field.name: getattr(message, field.name) for field in fields(CollectionInfo)}
    values["metadata_columns"] = dict(sorted(message.metadata_columns.items()))
    return CollectionInfo(**values)


def commit_to_proto(commit: CommitResult) -> pb.Commit:
    """Spell what a write or delete did."""
    return pb.Commit(
        collection=commit.collection,
        version=commit.version,
        num_added=commit.num_added,
        num_deleted=commit.num_deleted,
    )


def commit_from_proto(message: pb.Commit) -> CommitResult:
    """Read what a write or delete did."""
    return CommitResult(
        collection=message.collection,
        version=message.version,
        num_added=message.num_added,
        num_deleted=message.num_deleted,
    )
