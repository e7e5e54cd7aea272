"""Input files as bytes: which files make a corpus, and how one is read without trusting it.

A stream is read in pieces, decompressed by suffix (.gz, .zst) and bounded twice: no line is held
beyond `MAX_RECORD_BYTES`, and a stream that inflates beyond `MAX_RATIO` is refused.

Does not: know what the bytes mean; that is `layouts` and `tables`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from memstore.errors import InvalidInputError, MemstoreError, NotFoundError, StorageError

MAX_RECORD_BYTES = 16 << 20
"""The longest line, row or text file that is read as one record, its line end included."""

MAX_RATIO = 200
"""Decompressed bytes allowed for one stored byte, once a stream is past `RATIO_FREE_BYTES`."""

RATIO_FREE_BYTES = 64 << 20
"""Decompressed bytes that a stream may have at any ratio: short repetitive files are no bombs."""

CHUNK_BYTES = 1 << 20

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

Observer = Callable[[memoryview], object]
"""Called with every piece of a file's stored bytes, in order."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of a corpus.

    Attributes:
        name: path below the corpus folder with `/`, or the file's own name; the same wherever the
            corpus lies.
        path: where it lies now.
        num_bytes: stored length.
        layout: how its records are read, such as `"jsonl"`.
    """

    name: str
    path: Path
    num_bytes: int
    layout: str


def split_compression(name: str) -> tuple[str, str | None]:
    """Split a compression suffix off `name`: the rest, and `"gzip"`, `"zstd"` or None."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  a name, not a path
    compression = _COMPRESSIONS.get(suffix.lower())
    return (stem, compression) if compression else (name, None)


def list_files(folder: Path) -> list[tuple[str, Path]]:
    """List the regular files below a folder, by name.

    Hidden files and folders are left out, as are links to folders and links that leave `folder`.

    Raises:
        InvalidInputError: if a file's name is not UTF-8.
        StorageError: if a folder cannot be read.
    """
    root = folder.resolve()
    found = []
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file_name in names:
            path = Path(parent, file_name)
            # is_file: a pipe or device of the same suffix would block or never end.
            if not file_name.startswith(".") and path.is_file() and _stays_inside(path, root):
                found.append((check_name(path.relative_to(folder).as_posix()), path))
    return sorted(found)


def check_name(name: str) -> str:
    """Return a file's name, if it is text.

    Raises:
        InvalidInputError: if the name has bytes that are not UTF-8; records could not be told by
            it.
    """
    try:
        name.encode()
    except UnicodeEncodeError as err:
        shown = name.encode(errors="backslashreplace").decode()
        raise InvalidInputError(f"{shown}: the file's name is not UTF-8; rename it") from err
    return name


def _stays_inside(path: Path, root: Path) -> bool:
    return not path.is_symlink() or path.resolve().is_relative_to(root)


def _refuse_folder(err: OSError) -> None:
    raise StorageError(f"{err.filename}: cannot list this folder: {err.strerror}") from err


class _StoredFile(io.FileIO):
    """A file that counts the bytes read from it and shows them to an observer."""

    def __init__(self, path: Path, observe: Observer | None) -> None:
        super().__init__(path, "rb")
        self.num_read = 0
        self._observe = observe

    def readinto(self, buffer: Any) -> int:
        try:
            num_bytes = super().readinto(buffer) or 0
        except OSError as err:
            raise StorageError(f"{self.name}: cannot read on: {err.strerror}") from err
        self.num_read += num_bytes
        if self._observe is not None and num_bytes:
            self._observe(memoryview(buffer)[:num_bytes])
        return num_bytes


class _Decompressed(io.RawIOBase):
    """The inside of a compressed file, refused when damaged or a bomb."""

    def __init__(self, stored: _StoredFile, buffered: BinaryIO, compression: str) -> None:
        import pyarrow as pa  # 50 ms that plain files need not pay

        # pyarrow rather than gzip/zstandard: it alone reports a truncated zstd stream.
        self._source = pa.CompressedInputStream(pa.PythonFile(buffered, mode="r"), compression)
        self._stored = stored
        self._compression = compression
        self._num_out = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            num_bytes = int(self._source.readinto(buffer))
        except MemstoreError:
            raise
        except (OSError, ValueError) as err:  # pyarrow's own errors are kinds of these two
            raise InvalidInputError(
                f"{self._stored.name}: damaged or truncated {self._compression} stream after"
                f" {self._num_out:,} decompressed bytes ({err}); fetch the file again"
            ) from err
        self._num_out += num_bytes
        limit = max(RATIO_FREE_BYTES, MAX_RATIO * self._stored.num_read)
        if self._num_out > limit:
            raise InvalidInputError(
                f"{self._stored.name}: {self._stored.num_read:,} stored bytes inflate to more than"
                f" {limit:,} (over {MAX_RATIO}:1); decompress the file first if it is meant so"
            )
        return num_bytes


@contextmanager
def open_stored(path: Path, *, observe: Observer | None = None) -> Iterator[BinaryIO]:
    """Open a file for its stored bytes; on leaving, `observe` is shown those not yet read.

    Raises:
        NotFoundError: if there is no such file.
        StorageError: if it cannot be opened or read.
    """
    with _open(path, observe) as stored, io.BufferedReader(stored, CHUNK_BYTES) as buffered:
        yield buffered
        _finish(buffered, observe)


@contextmanager
def open_stream(path: Path, *, observe: Observer | None = None) -> Iterator[BinaryIO]:
    """Open a file for its content, decompressed if its suffix says so; otherwise as `open_stored`.

    Raises:
        InvalidInputError: from a read, if the compressed stream is damaged, truncated or a bomb.
    """
    compression = split_compression(path.name)[1]
    with _open(path, observe) as stored, io.BufferedReader(stored, CHUNK_BYTES) as buffered:
        if compression is None:
            yield buffered
        else:
            inside = _Decompressed(stored, buffered, compression)
            # Both names live to the end of this block: a collected reader closes what it reads.
            content = io.BufferedReader(inside, CHUNK_BYTES)
            yield content
        _finish(buffered, observe)


def _open(path: Path, observe: Observer | None) -> _StoredFile:
    try:
        return _StoredFile(path, observe)
    except FileNotFoundError as err:
        raise NotFoundError(f"{path}: no such file") from err
    except OSError as err:
        raise StorageError(f"{path}: cannot open: {err.strerror}") from err


def _finish(buffered: BinaryIO, observe: Observer | None) -> None:
    while observe is not None and buffered.read(CHUNK_BYTES):
        pass


def read_lines(stream: BinaryIO) -> Iterator[tuple[bytes | None, int]]:
    """Read a stream line by line in bounded memory.

    Yields:
        The line without its line end, or None in place of one longer than `MAX_RECORD_BYTES`; and
        its length in the stream, line end included.
    """
    while line := stream.readline(MAX_RECORD_BYTES + 1):
        if len(line) <= MAX_RECORD_BYTES:
            yield line.rstrip(b"\r\n"), len(line)
        else:
            yield None, len(line) + _skip_line(stream, line)


def _skip_line(stream: BinaryIO, piece: bytes) -> int:
    """Read to the end of the line that `piece` is a part of; return how many bytes that took."""
    num_bytes = 0
    while piece and not piece.endswith(b"\n"):
        piece = stream.readline(CHUNK_BYTES)
        num_bytes += len(piece)
    return num_bytes
