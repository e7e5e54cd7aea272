"""What a session remembers, in the form in which it is kept; never a tensor.

A version that completes windows writes them and the short-term memories, and takes in the pieces
before it that are less than twice as large, or small beside those memories. So a queue of Q windows
lies in at most log2 Q + 1 objects, each of its windows is written about log2 Q times, and an append
costs what it appends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard

from memstore.sessions.record import Piece, Record
from memstore.sessions.values import SessionWindow


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A window whose summary is in the queue.

    Attributes:
        text: what it says.
        rows: (L, row bytes) uint8: its summary entries, see `memstore.sessions.rows`.
    """

    text: str
    rows: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """A session's memory and what has been read since.

    Attributes:
        num_windows_read: windows that memory has taken in since the session began.
        short: (bytes,) uint8: the layers' short-term memories in the model's dtype; empty while
            no window has been read.
        windows: those of the queue, oldest first, at most Q.
        tail: (P,) int32, P ≤ W: the tokens since. The last window read waits here until a token
            comes after it.
        tail_text: what they say.
    """

    num_windows_read: int
    short: np.ndarray
    windows: tuple[Window, ...]
    tail: np.ndarray
    tail_text: str

    @property
    def num_bytes(self) -> int:
        """Bytes of RAM, near enough."""
        texts = len(self.tail_text) + sum(len(window.text) for window in self.windows)
        rows = sum(window.rows.nbytes for window in self.windows)
        return int(self.short.nbytes + rows + self.tail.nbytes + texts)

    def rows(self) -> np.ndarray:
        """Return the queue's entries, (windows · L, row bytes) uint8, a copy."""
        return np.concatenate([window.rows for window in self.windows])

    def queued(self, window_tokens: int) -> list[SessionWindow]:
        """Return the windows of the queue, oldest first, of so many tokens each."""
        first = self.num_windows_read - len(self.windows)
        return [
            SessionWindow(
                number=number,
                start=number * window_tokens,
                end=(number + 1) * window_tokens,
                text=window.text,
            )
            for number, window in enumerate(self.windows, start=first)
        ]

    def texts(self, window_tokens: int) -> list[SessionWindow]:
        """Return the windows of the queue, and at the end what has been read since, if any."""
        found = self.queued(window_tokens)
        if len(self.tail):
            start = self.num_windows_read * window_tokens
            last = SessionWindow(
                number=self.num_windows_read,
                start=start,
                end=start + len(self.tail),
                text=self.tail_text,
            )
            found.append(last)
        return found


EMPTY = Content(0, np.empty(0, np.uint8), (), np.empty(0, np.int32), "")
"""The memory of a session to which nothing was appended."""


def plan_pieces(
    pieces: Sequence[Piece], num_new: int, content: Content
) -> tuple[tuple[Piece, ...], int]:
    """Decide which windows a version writes itself.

    Args:
        pieces: what the version before is made of, itself included, oldest first.
        num_new: windows that were completed since.
        content: the memory now.

    Returns:
        The pieces that remain, and the number of windows to write, the latest of the queue.
    """
    num_kept = len(content.windows)
    if not num_new:
        return tuple(pieces), 0
    # Short-term memories are written anyway: as many bytes of windows more do not double the cost.
    num_free = content.short.nbytes // max(1, content.windows[-1].rows.nbytes)
    remaining = list(pieces)
    num_written = num_new
    while remaining and remaining[-1].num_windows < 2 * num_written + num_free:
        num_written += remaining.pop().num_windows
    num_needed = num_kept - num_written
    first = len(remaining)
    while first and num_needed > 0:
        first -= 1
        num_needed -= remaining[first].num_windows
    return tuple(remaining[first:]), min(num_written, num_kept)


def to_blobs(content: Content, num_windows: int) -> dict[str, bytes]:
    """Return what a version writes: the tail, and its latest windows, if any."""
    blobs = {
        "tail": content.tail.astype("<i4").tobytes(),
        "tail_text": content.tail_text.encode(),
    }
    if num_windows:
        windows = content.windows[-num_windows:]
        texts = json.dumps([window.text for window in windows], ensure_ascii=False).encode()
        blobs["short"] = content.short.tobytes()
        blobs["rows"] = np.concatenate([window.rows for window in windows]).tobytes()
        blobs["texts"] = zstandard.compress(texts)
    return blobs


def from_records(
    records: Sequence[Record], *, queue_windows: int, window_rows: tuple[int, int]
) -> Content:
    """Read a session's memory.

    Args:
        records: its pieces, oldest first, the version itself last.
        queue_windows: Q, at most so many windows are kept.
        window_rows: (L, row bytes) of a window.

    Raises:
        CorruptionError: if bytes are not those that were written.
    """
    windows: list[Window] = []
    short = EMPTY.short
    for record in records:
        blobs, num_windows = record.blobs(), record.header.num_own_windows
        if num_windows:
            short = np.frombuffer(blobs["short"], np.uint8)
            rows = np.frombuffer(blobs["rows"], np.uint8)
            texts = json.loads(zstandard.decompress(blobs["texts"]))
            windows += map(Window, texts, rows.reshape(num_windows, *window_rows))
    return Content(
        records[-1].header.num_windows_read,
        short,
        tuple(windows[-queue_windows:]),
        np.frombuffer(blobs["tail"], "<i4"),
        blobs["tail_text"].decode(),
    )
